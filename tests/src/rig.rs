// SPDX-License-Identifier: MIT OR Apache-2.0

//! The usual setup: a lab, nginx on both ports, and a daemon that guards one of the ports.

use std::net::IpAddr;

use crate::{Config, GUARDED, Lab, Limiter, Net, Nginx, Response, UNGUARDED};

/// A lab, nginx and a daemon. Fields are dropped in the order of their declaration, so the daemon
/// ends before its namespace is removed.
#[derive(Debug)]
pub struct Rig {
    pub limiter: Limiter,
    pub nginx: Nginx,
    pub lab: Lab,
}

impl Rig {
    /// Makes a rig on `net`, with a configuration that `configure` changes.
    #[track_caller]
    pub fn on(net: Net, configure: impl FnOnce(Config) -> Config) -> Self {
        Self::of(Lab::new(net), configure)
    }

    /// Makes a rig with two namespaces and a veth pair.
    #[track_caller]
    pub fn veth(configure: impl FnOnce(Config) -> Config) -> Self {
        Self::on(Net::Veth, configure)
    }

    /// Makes a rig in an existing lab.
    #[track_caller]
    pub fn of(lab: Lab, configure: impl FnOnce(Config) -> Config) -> Self {
        Self::with(lab, "", configure)
    }

    /// Makes a rig in an existing lab, with these directives for nginx.
    #[track_caller]
    pub fn with(lab: Lab, nginx: &str, configure: impl FnOnce(Config) -> Config) -> Self {
        let nginx = Nginx::start_with(&lab, &[GUARDED, UNGUARDED], nginx);
        let limiter = Limiter::start(&lab, &configure(Config::new(&lab)));
        Self {
            limiter,
            nginx,
            lab,
        }
    }

    /// Sends a GET request on its own connection.
    #[track_caller]
    pub fn get(&self, key: &str) -> Response {
        self.get_from(self.lab.v4(), key)
    }

    #[track_caller]
    pub fn get_from(&self, address: IpAddr, key: &str) -> Response {
        self.lab.connect_to(address, GUARDED).get("/", key)
    }

    /// Sends `count` GET requests, each on its own connection, and returns the status codes.
    #[track_caller]
    pub fn statuses(&self, key: &str, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.get(key).status).collect()
    }

    /// Asserts that nginx served `expected` requests with the key, and that the same number was
    /// charged to the scope of the key. The scope must have no other key.
    #[track_caller]
    pub fn assert_charged_as_served(&self, scope: &str, key: &str, expected: u64) {
        let (served, used) = (self.nginx.served(key), self.limiter.usage(scope).used);
        assert_eq!((served, used), (expected, expected), "served and charged");
    }

    /// Asserts that nginx served as many requests with the key as were charged to the scope of the
    /// key, and returns the number. The scope must have no other key.
    #[track_caller]
    pub fn charged_as_served(&self, scope: &str, key: &str) -> u64 {
        let (served, used) = (self.nginx.served(key), self.limiter.usage(scope).used);
        assert_eq!(served, used, "served and charged, {scope}");
        used
    }

    /// Waits until the scope has no request in flight and no connection, and neither the client nor
    /// the server has a socket for the guarded port.
    #[track_caller]
    pub fn assert_no_sockets(&self, scope: &str) {
        self.assert_nothing_left(scope);
        Nginx::wait_until_no_client_sockets(&self.lab, GUARDED);
    }

    /// Waits until the scope has no request in flight and no connection, and the server has no
    /// socket for the guarded port.
    #[track_caller]
    pub fn assert_nothing_left(&self, scope: &str) {
        crate::eventually("nothing is in flight", || {
            self.limiter.usage(scope).in_flight == 0
        });
        Nginx::wait_until_no_sockets(&self.lab, GUARDED);
        crate::eventually("no connection is left", || {
            self.limiter.usage(scope).connections == 0
        });
    }
}
