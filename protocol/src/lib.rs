//! The documents that the Care cloud and a camera exchange, and the rules for reading them.
//!
//! Everything here is strict and pure: bytes in; a checked value, or a [`Reject`] with its reason code, out. There is
//! no socket, no file and no clock. The agent uses it to check documents, the cloud to sign them. `docs/protocol.md`
//! specifies the wire format; each type names the heading that it implements.
#![forbid(unsafe_code)]

mod api;
mod entitlement;
mod ident;
mod json;
mod jws;
mod keyset;
mod policy;
mod reject;
mod report;
pub mod rfc3339;
mod topics;

pub use api::{Answer, ClipKind, Get, Grant, GrantRequest, MotionEvent, MotionState, Part, Stored, is_sha256_hex};
pub use entitlement::{Channel, Entitlement, Lease, MAX_TOKEN_BYTES, Next, Order, Reason, Refund, RefundKind, VerifiedEntitlement};
pub use ident::{BadIdent, DeviceId, Digest, Epoch, MAX_INTEGER, Plan, Position, Seq};
pub use jws::{PublicKey, Signer};
pub use keyset::{Key, Keyset, MAX_KEYSET_BYTES, Reset, RootKeys, VerifiedKeyset};
pub use policy::Policy;
pub use reject::Reject;
pub use report::{Cause, Cut, Erased, Mode, Outcome, Report};
pub use topics::{Topic, Topics};
