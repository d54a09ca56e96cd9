//! Who owns the camera: factory reset, another account, no account.

mod change_of_owner;
mod factory_reset;
