//! The faults of the drill, by the test that plays them, and why the other conditions are in none.

use kasa_care_agent::conditions::Kind;

/// The test that plays a fault, with an agent of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Network,
    Broker,
    Messages,
    Api,
    Documents,
    Certificates,
    Clips,
    Flash,
    Camera,
    Card,
    Starts,
}

impl Group {
    /// All of them, in the order of docs/troubleshooting.md.
    pub const ALL: [Self; 11] = [
        Self::Network,
        Self::Broker,
        Self::Messages,
        Self::Api,
        Self::Documents,
        Self::Certificates,
        Self::Clips,
        Self::Flash,
        Self::Camera,
        Self::Card,
        Self::Starts,
    ];
}

/// Where the fault is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// As a condition.
    Condition(Kind),
    /// The agent does not start, and ends with this code.
    Exit(i32),
}

/// A fault, and what an operator sees of it.
#[derive(Debug)]
pub struct Fault {
    pub group: Group,
    /// What is wrong, for people.
    pub what: &'static str,
    pub shows: Shows,
    /// What its sentence contains.
    pub says: &'static [&'static str],
    /// What its advice contains: the remedy.
    pub remedy: &'static str,
}

const fn fault(group: Group, what: &'static str, kind: Kind, says: &'static [&'static str], remedy: &'static str) -> Fault {
    Fault { group, what, shows: Shows::Condition(kind), says, remedy }
}

/// The same with the usual advice of the condition.
const fn usual(group: Group, what: &'static str, kind: Kind, says: &'static [&'static str]) -> Fault {
    fault(group, what, kind, says, kind.advice())
}

const fn ends(group: Group, what: &'static str, says: &'static [&'static str], remedy: &'static str) -> Fault {
    Fault { group, what, shows: Shows::Exit(78), says, remedy }
}

use Group::*;
use Kind::*;

/// The table.
pub const FAULTS: &[Fault] = &[
    fault(Network, "The broker is not running", BrokerUnreachable, &["refused"], "Check that the server runs and listens on this port."),
    fault(
        Network,
        "A firewall swallows what goes to the broker",
        BrokerUnreachable,
        &["no answer in time"],
        "Check the camera's network and that no firewall stops this address and port.",
    ),
    fault(
        Network,
        "A firewall swallows what goes to the API, too",
        ApiUnreachable,
        &["GET /v1/"],
        "Check the camera's network and that no firewall stops this address and port.",
    ),
    usual(Network, "Paid video waits while neither can be reached", Held, &["premium"]),
    fault(
        Network,
        "Something else listens on the broker's port",
        BrokerUnreachable,
        &["does not speak TLS"],
        "Check the port: what listens there does not speak TLS.",
    ),
    fault(
        Network,
        "The broker's name has no address",
        BrokerUnreachable,
        &["broker.care.test"],
        "Check the name, and the camera's name server.",
    ),
    fault(
        Network,
        "The name server does not answer",
        BrokerUnreachable,
        &["broker.care.test"],
        "Check the name, and the camera's name server.",
    ),
    usual(Network, "The broker in the home is switched off", LocalBroker, &["Home Assistant is told nothing"]),
    usual(Broker, "The broker's ACL lets the camera read nothing", BrokerDeaf, &["granted the subscription"]),
    fault(
        Broker,
        "The broker's policy forbids the subscription",
        BrokerRights,
        &["closes the connection", "SUBSCRIBE"],
        "Let the broker's ACL or policy give this device its topics: subscribe to entitlement, entitlement/answer and keyset, publish to get, report and status.",
    ),
    usual(Broker, "Another client connects with the camera's id", BrokerClone, &["another client seems to use this device's id"]),
    usual(Messages, "A message of 300 KB waits in the camera's topic", BrokerMessageTooLarge, &["/entitlement", "262144"]),
    fault(Api, "The API is not running", ApiUnreachable, &["refused"], "Check that the server runs and listens on this port."),
    fault(Api, "The API answers 500", ApiUnreachable, &["answers 500"], "See the API's own log."),
    fault(Api, "The API answers 403", ApiUnreachable, &["answers 403"], "Register this device's certificate with the cloud."),
    fault(
        Api,
        "The API has moved, and answers 301",
        ApiUnreachable,
        &["answers 301"],
        "Set [cloud] url to the address where the API is now: the agent follows no redirect.",
    ),
    fault(
        Api,
        "The API takes the request and never answers",
        ApiUnreachable,
        &["GET /v1/devices/8006E5A1F0C2/entitlement"],
        "Check the server, and what stands between it and the camera.",
    ),
    fault(
        Api,
        "The API answers with 300 KB",
        ApiUnreachable,
        &["262144"],
        "Check what the server sends: the answer is larger than any answer that this agent expects.",
    ),
    fault(
        Api,
        "A login page answers for the API",
        DocumentRejected,
        &["the API"],
        "Look at how the publisher builds the document (docs/protocol.md).",
    ),
    fault(
        Api,
        "The API asks for no client certificate",
        ApiUnreachable,
        &["no client certificate"],
        "Let the server require client certificates (mutual TLS).",
    ),
    usual(Api, "The API's clock is in 2099", ClockDisputed, &["the API's Date says 2099"]),
    usual(Api, "The API's clock is two hours ahead", ClockCorrected, &["the API's Date set trusted time forward"]),
    fault(
        Documents,
        "A document has a forged signature",
        DocumentRejected,
        &["signature"],
        "Look at the signing key: it is not the one that the keyset has under this kid.",
    ),
    fault(
        Documents,
        "A document is for another camera",
        DocumentRejected,
        &["8006E5A1F0C3", "8006E5A1F0C2"],
        "Compare aud and iss with the device id and [trust] issuer.",
    ),
    fault(
        Documents,
        "A document is of another issuer",
        DocumentRejected,
        &["issuer is \"prod\", this device trusts \"care\""],
        "Compare aud and iss with the device id and [trust] issuer.",
    ),
    fault(
        Documents,
        "A document is no JWS",
        DocumentRejected,
        &["entitlement topic"],
        "Look at how the publisher builds the document (docs/protocol.md).",
    ),
    fault(
        Documents,
        "A document is larger than any may be",
        DocumentRejected,
        &["8192"],
        "Look at how the publisher builds the document (docs/protocol.md).",
    ),
    fault(
        Documents,
        "A keyset is older than the camera's",
        DocumentRejected,
        &["keyset on its topic", "6", "7"],
        "Look at the keyset's version: it must rise.",
    ),
    fault(
        Documents,
        "A document changes the account and not the epoch",
        DocumentRejected,
        &["epoch"],
        "Look at the epoch: another account needs a higher one.",
    ),
    fault(
        Documents,
        "The keyset with the document's key is missing",
        DocumentRejected,
        &["2027-01"],
        "Look at the keyset: published, retained, newer than the key's first use?",
    ),
    usual(Documents, "Two documents carry the same sequence", DocumentConflict, &["(3, "]),
    usual(Documents, "The lease has ended", LeaseEnded, &["the lease of document"]),
    usual(Documents, "The camera was reset to factory settings", FactoryReset, &["an epoch above 3"]),
    fault(
        Certificates,
        "The broker's certificate has expired",
        BrokerUnreachable,
        &["expired on"],
        "Renew the server's certificate; if it is valid today, check the camera's trusted time.",
    ),
    fault(
        Certificates,
        "The broker's certificate is for another name",
        BrokerUnreachable,
        &["other names", "care.example"],
        "Configure a name that the server's certificate carries, or issue one for this name.",
    ),
    fault(
        Certificates,
        "The broker's certificate is of an unknown authority",
        BrokerUnreachable,
        &["unknown authority"],
        "Add the authority that signed the server's certificate to ca, or let the server send its intermediates.",
    ),
    fault(
        Certificates,
        "The broker refuses the camera's certificate",
        BrokerUnreachable,
        &["refused this device's certificate"],
        "Register this device's certificate with the server, or install one that it accepts.",
    ),
    usual(Certificates, "The camera's certificate ends in 12 days", CertificateEnds, &["the device certificate ends", "in 12 days"]),
    usual(Certificates, "The camera's certificate has expired", CertificateEnds, &["the device certificate ended"]),
    usual(Certificates, "The camera's key does not match its certificate", CertificateRejected, &["device.key"]),
    usual(Certificates, "The camera's certificate is another camera's", CertificateRejected, &["common name", "ANOTHER"]),
    usual(Certificates, "The CA file is damaged", CertificateRejected, &["ca.pem"]),
    usual(Certificates, "One certificate of the CA bundle is damaged", CaSkipped, &["ca.pem", "line"]),
    usual(Certificates, "A reload finds a key of the configuration misspelt", ConfigRejected, &["uplnk_kbps"]),
    usual(Certificates, "A reload finds a number written as a word", ConfigRejected, &["history_h"]),
    fault(
        Clips,
        "The store is full: 507",
        UploadsFailing,
        &["507"],
        "Look for the fault in the server's own log; clips wait until it is fixed.",
    ),
    fault(
        Clips,
        "The store refuses the grants: 403",
        UploadsFailing,
        &["403"],
        "The store rejects the URL that the cloud has signed: check the cloud's store keys and clock.",
    ),
    fault(
        Clips,
        "The API cannot make grants: 500",
        UploadsFailing,
        &["500", "asking for a grant"],
        "Look for the fault in the server's own log; clips wait until it is fixed.",
    ),
    usual(Clips, "The cloud refuses grants that the document allows", GrantRefused, &["403"]),
    usual(Clips, "Grants name a host that is not in the list", GrantMisleads, &["clips.example"]),
    fault(
        Clips,
        "A proxy takes no clips of that size",
        ClipFailing,
        &["413"],
        "Raise the body size that the store, or a proxy before it, takes.",
    ),
    fault(
        Clips,
        "The store does not like one clip",
        ClipFailing,
        &["500", "the store does not like this clip"],
        "Look for the fault in the server's own log; clips wait until it is fixed.",
    ),
    usual(Clips, "The picture is larger than the plan allows", PictureTooTall, &["180", "100"]),
    fault(Flash, "The state directory's file system is full", StateNotWritten, &["No space left"], StateNotWritten.advice()),
    usual(Flash, "Flash is worn, and its syncs fail", StateNotWritten, &["Input/output error"]),
    fault(
        Flash,
        "A file stands where clips belong on flash",
        SpoolFault,
        &["spool"],
        "Make the state directory, and remove what stands in the place of its spool folder.",
    ),
    usual(Flash, "A power cut has damaged the state", StateLost, &["the state could not be read"]),
    usual(Flash, "The file of the timeline is damaged", TimelineFault, &["timeline", "damaged"]),
    usual(Flash, "More clips wait than memory can hold", ClipsDropped, &["gave way to newer ones"]),
    fault(
        Flash,
        "A clip is longer than memory, and may not go to flash",
        ClipsShortened,
        &["memory_bytes", "flash_bytes is 0"],
        "Enlarge [spool] flash_bytes or memory_bytes, or set [upload] while_recording = true.",
    ),
    usual(Camera, "The directory of the motion socket is missing", MotionSocket, &["motion.sock", "No such file"]),
    fault(Camera, "The camera's streamer is not running", Stream, &["refuses the connection"], Stream.advice()),
    fault(Camera, "The streamer's password was changed", Stream, &["401", "correct them in the address"], Stream.advice()),
    fault(Camera, "The stream has another path", Stream, &["404"], Stream.advice()),
    fault(Camera, "The second stream is gone", LowStream, &["404"], LowStream.advice()),
    fault(
        Camera,
        "The address of the camera's snapshots fails",
        SnapshotFailing,
        &["503"],
        "Check [media] snapshot_url; check-config tries it.",
    ),
    fault(
        Card,
        "There is no card in the slot",
        Recording,
        &["no card is mounted"],
        "Mount the card; recording then starts by itself. If recordings may go to the camera's own storage, set [recording] allow_internal_storage = true.",
    ),
    fault(
        Card,
        "The card turns read-only",
        Recording,
        &["Read-only file system"],
        "The card is write-protected, or its file system is damaged: check it, or replace it.",
    ),
    fault(
        Card,
        "The card is full of other files",
        Recording,
        &["No space left"],
        "Delete other files from the card, or use a larger one: no recording is left on it to give way.",
    ),
    fault(Card, "The card fails to keep what it was given", Recording, &["syncing a recording"], "Check the card, or replace it."),
    usual(Card, "The card takes seconds for a sync", CardSlow, &["a power cut would have taken"]),
    ends(Starts, "A key of the configuration is misspelt", &["stat_dir"], "did you mean state_dir?"),
    ends(Starts, "The CA file is missing", &["broker.ca", "/nowhere/ca.pem"], "install the file or correct its path in the configuration"),
    ends(Starts, "Others may read the camera's key", &["device.key"], "chmod 600"),
    ends(Starts, "The key is not that of the certificate", &["device.key"], "install the two that were made together"),
    usual(Starts, "The agent's user was not made", RunsAsRoot, &["no user kasa-care-agent-that-nobody-made"]),
    fault(
        Starts,
        "This build cannot read the configured source",
        MediaNotStarted,
        &["GStreamer"],
        "or install a build of the agent with GStreamer.",
    ),
    fault(
        Starts,
        "The camera sends no ONVIF metadata",
        MotionBlind,
        &["metadata"],
        "Switch metadata (analytics, events) on in the camera's media profile",
    ),
    usual(Starts, "Another program has the page's address", StatusPage, &["cannot listen on", "in use"]),
];

/// Conditions that no fault of the drill raises, and why.
pub const ELSEWHERE: &[(Kind, &str)] = &[
    (EventsMissed, "needs an encoder of its own, and lasts ten minutes: src/media/tests/gops.rs"),
    (FlashBudget, "lasts until the next day: tests/scenarios/power/flash_wear.rs"),
    (FramesLost, "needs packets lost on the way: src/media/tests/streams.rs"),
    (PreRollTooSmall, "needs an encoder of its own: src/media/tests/gops.rs"),
    (ClockUnconfirmed, "begins five minutes after the start: src/clock/monitor.rs"),
    (Pacing, "needs an old kernel, and lasts as long as the agent: tests/scenarios/plans/changes.rs"),
    (UploaderAway, "needs a program of the vendor's: tests/uploader/main.rs"),
    (PathMtu, "needs a router without ICMP, and lasts an hour: tests/scenarios/network/path_mtu.rs"),
];
