// SPDX-License-Identifier: MIT OR Apache-2.0

//! A server that a test scripts, and a daemon that guards it.

use crate::{Config, Conn, GUARDED, Lab, Limiter, Net, Server, eventually};

/// A response for tests in which the content of the response does not matter.
pub const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain";

/// A lab, a server, a daemon, and the key of `acme/web`.
#[derive(Debug)]
pub struct Scripted {
    pub limiter: Limiter,
    _server: Server,
    pub lab: Lab,
    pub key: String,
}

impl Scripted {
    /// Sets up a lab with a veth pair, a daemon, and a server that handles each connection with a
    /// function.
    #[track_caller]
    pub fn serving(
        configure: impl FnOnce(Config) -> Config,
        serve: impl Fn(Conn) + Send + Sync + 'static,
    ) -> Self {
        let server = |lab: &Lab| Server::start(lab.server(), GUARDED, serve);
        Self::on(Net::Veth, configure, server)
    }

    /// Sets up a lab on `net`, the given server, and a daemon.
    #[track_caller]
    pub fn on(
        net: Net,
        configure: impl FnOnce(Config) -> Config,
        server: impl FnOnce(&Lab) -> Server,
    ) -> Self {
        let lab = Lab::new(net);
        let server = server(&lab);
        let limiter = Limiter::start(&lab, &configure(Config::new(&lab)));
        let key = limiter.key("acme/web");
        Self {
            limiter,
            _server: server,
            lab,
            key,
        }
    }

    #[track_caller]
    pub fn assert_used(&self, expected: u64, what: &str) {
        assert_eq!(self.limiter.usage("acme/web").used, expected, "{what}");
    }

    #[track_caller]
    pub fn assert_nothing_left(&self, what: &str) {
        eventually(&format!("nothing is left: {what}"), || {
            let usage = self.limiter.usage("acme/web");
            (usage.in_flight, usage.connections) == (0, 0)
        });
    }

    /// Waits until the scope has no request in flight, and asserts that no request was refused. The
    /// scope must allow only one request at a time, so that a slot that is not released leads to a
    /// refusal.
    #[track_caller]
    pub fn assert_slot_is_free(&self) {
        eventually("the slot is free", || {
            self.limiter.usage("acme/web").in_flight == 0
        });
        let refused = self.limiter.usage("acme/web").refused;
        assert_eq!(refused.total(), 0, "a slot was not released");
    }
}
