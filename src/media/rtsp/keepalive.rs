//! When a session needs a sign of life, and which request is one. RFC 2326 leaves the request open: OPTIONS at first, which every
//! camera has, and GET_PARAMETER or SET_PARAMETER once the camera names them. A camera that answers none is left alone for as long as
//! it sends packets. Pure. Called by `playing`.

use std::time::{Duration, Instant};

use super::message::Response;

/// Requests come at least so often, because of routers that forget a quiet connection.
const LONGEST: Duration = Duration::from_secs(30);
const SHORTEST: Duration = Duration::from_millis(500);

const OPTIONS: &str = "OPTIONS";
/// GET_PARAMETER before SET_PARAMETER, against ONVIF's advice: some cameras name the second and refuse it, and the first is what
/// other clients send.
const OTHERS: [&str; 2] = ["GET_PARAMETER", "SET_PARAMETER"];

#[derive(Debug)]
pub(super) struct Keepalive {
    interval: Duration,
    due: Instant,
    method: &'static str,
    /// The request that has no answer yet, and when it was sent.
    waiting: Option<(&'static str, Instant)>,
    /// Which of the others have failed.
    failed: Vec<&'static str>,
    /// Whether a request has gone without an answer, and none has had one since.
    ignored: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Nothing,
    /// A request with this method.
    Send(&'static str),
    /// The camera answers nothing and sends nothing.
    GiveUp,
}

impl Keepalive {
    /// For a session that the camera ends after `timeout` without a request.
    pub fn new(timeout: Duration, now: Instant) -> Self {
        // The request that counts may be the second one, or the third.
        let interval = (timeout / 3).clamp(SHORTEST, LONGEST);
        Self { interval, due: now + interval, method: OPTIONS, waiting: None, failed: Vec::new(), ignored: false }
    }

    pub fn due_at(&self) -> Instant {
        self.due
    }

    /// Whether the camera leaves requests without an answer.
    pub fn is_ignored(&self) -> bool {
        self.ignored
    }

    /// The request that has no answer yet.
    pub fn waiting(&self) -> Option<&'static str> {
        self.waiting.map(|(method, _)| method)
    }

    /// What is due at `now`, if the newest packet came at `packet_at`.
    pub fn due(&mut self, now: Instant, packet_at: Option<Instant>) -> Due {
        if now < self.due {
            return Due::Nothing;
        }
        if let Some((method, sent)) = self.waiting.take() {
            self.ignored = true;
            if packet_at.is_none_or(|at| at < sent) {
                return Due::GiveUp;
            }
            self.fail(method);
        }
        (self.due, self.waiting) = (now + self.interval, Some((self.method, now)));
        Due::Send(self.method)
    }

    /// An answer has come.
    pub fn answered(&mut self, response: &Response) {
        self.ignored = false;
        let Some((method, _)) = self.waiting.take() else { return };
        if !(200..300).contains(&response.status) {
            self.fail(method);
        } else if method == OPTIONS {
            let public: Vec<_> = response.headers.all("Public").flat_map(|value| value.split([',', ' '])).collect();
            let offered = |other: &&&str| public.iter().any(|method| method.eq_ignore_ascii_case(other)) && !self.failed.contains(other);
            self.method = OTHERS.iter().find(offered).unwrap_or(&OPTIONS);
        }
    }

    fn fail(&mut self, method: &'static str) {
        if method != OPTIONS && !self.failed.contains(&method) {
            self.failed.push(method);
        }
        self.method = OPTIONS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::rtsp::message::{Message, Reader};

    fn response(text: &str) -> Response {
        match Reader::default().next(&mut format!("RTSP/1.0 {text}\r\n\r\n").as_bytes().into()) {
            Ok(Some(Message::Response(response))) => response,
            other => panic!("{other:?}"),
        }
    }

    /// The methods sent to a camera that answers each as `answer` says, with packets between.
    fn sent(answer: impl Fn(&str) -> Option<&'static str>) -> Vec<&'static str> {
        let mut now = Instant::now();
        let mut keepalive = Keepalive::new(Duration::from_secs(60), now);
        let mut methods = Vec::new();
        for _ in 0..5 {
            assert_eq!(keepalive.due(now, None), Due::Nothing, "it is not time");
            now = keepalive.due_at();
            let Due::Send(method) = keepalive.due(now, Some(now)) else { panic!("{keepalive:?}") };
            methods.push(method);
            now += Duration::from_secs(1);
            if let Some(answer) = answer(method) {
                keepalive.answered(&response(answer));
                assert!(!keepalive.is_ignored());
            }
        }
        methods
    }

    #[test]
    fn the_request_is_one_that_the_camera_names_and_answers() {
        const ALL: &str = "200 OK\r\nPublic: OPTIONS, get_parameter,SET_PARAMETER";
        assert_eq!(sent(|_| Some(ALL)), ["OPTIONS", "GET_PARAMETER", "GET_PARAMETER", "GET_PARAMETER", "GET_PARAMETER"]);
        assert_eq!(sent(|_| Some("200 OK")), ["OPTIONS"; 5]);
        assert_eq!(sent(|_| Some("501 Not Implemented")), ["OPTIONS"; 5]);
        let only = |working: &'static str| {
            move |method: &str| Some(if method == OPTIONS || method == working { ALL } else { "501 Not Implemented" })
        };
        assert_eq!(sent(only("SET_PARAMETER")), ["OPTIONS", "GET_PARAMETER", "OPTIONS", "SET_PARAMETER", "SET_PARAMETER"]);
        assert_eq!(sent(only("")), ["OPTIONS", "GET_PARAMETER", "OPTIONS", "SET_PARAMETER", "OPTIONS"]);
        assert_eq!(sent(|method| (method == OPTIONS).then_some(ALL)), ["OPTIONS", "GET_PARAMETER", "OPTIONS", "SET_PARAMETER", "OPTIONS"]);
        assert_eq!(sent(|_| None), ["OPTIONS"; 5]);
    }

    #[test]
    fn a_camera_that_answers_nothing_is_given_up_only_once_it_sends_nothing() {
        let began = Instant::now();
        let mut keepalive = Keepalive::new(Duration::from_secs(30), began);
        let at = |seconds| began + Duration::from_secs(seconds);
        assert_eq!(keepalive.due(at(9), None), Due::Nothing);
        assert_eq!(keepalive.due(at(10), None), Due::Send(OPTIONS));
        assert!(!keepalive.is_ignored());
        assert_eq!(keepalive.due(at(20), Some(at(19))), Due::Send(OPTIONS));
        assert!(keepalive.is_ignored());
        assert_eq!(keepalive.due(at(30), Some(at(19))), Due::GiveUp);
    }

    #[test]
    fn the_interval_is_a_third_of_the_timeout_within_bounds() {
        let now = Instant::now();
        let interval = |seconds| Keepalive::new(Duration::from_secs(seconds), now).due_at() - now;
        assert_eq!(
            [interval(0), interval(3), interval(60), interval(u32::MAX.into())],
            [SHORTEST, Duration::from_secs(1), Duration::from_secs(20), LONGEST]
        );
    }
}
