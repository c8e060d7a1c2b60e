//! The usual setup: a lab, nginx on both ports, a daemon guarding one of them.

use std::net::IpAddr;

use crate::{Config, GUARDED, Lab, Limiter, Net, Nginx, Response, UNGUARDED};

/// Lab, nginx and daemon. Dropped from the top: the daemon goes before the
/// namespace that it lives in.
#[derive(Debug)]
pub struct Rig {
    pub limiter: Limiter,
    pub nginx: Nginx,
    pub lab: Lab,
}

impl Rig {
    /// A rig on `net`, its configuration changed by `configure`.
    #[track_caller]
    pub fn on(net: Net, configure: impl FnOnce(Config) -> Config) -> Self {
        Self::of(Lab::new(net), configure)
    }

    /// A rig of two namespaces and a veth pair.
    #[track_caller]
    pub fn veth(configure: impl FnOnce(Config) -> Config) -> Self {
        Self::on(Net::Veth, configure)
    }

    /// A rig in a lab that is there.
    #[track_caller]
    pub fn of(lab: Lab, configure: impl FnOnce(Config) -> Config) -> Self {
        Self::with(lab, "", configure)
    }

    /// The same with these directives for nginx.
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

    /// A GET on a connection of its own.
    #[track_caller]
    pub fn get(&self, key: &str) -> Response {
        self.get_from(self.lab.v4(), key)
    }

    #[track_caller]
    pub fn get_from(&self, address: IpAddr, key: &str) -> Response {
        self.lab.connect_to(address, GUARDED).get("/", key)
    }

    /// The statuses of so many GETs, each on a connection of its own.
    #[track_caller]
    pub fn statuses(&self, key: &str, count: usize) -> Vec<u16> {
        (0..count).map(|_| self.get(key).status).collect()
    }

    /// Asserts that nginx answered exactly as many requests of this key as the
    /// key's scope, whose only key it is, is charged with.
    #[track_caller]
    pub fn assert_charged_as_served(&self, scope: &str, key: &str, expected: u64) {
        let (served, used) = (self.nginx.served(key), self.limiter.usage(scope).used);
        assert_eq!((served, used), (expected, expected), "served and charged");
    }

    /// How many requests of this key, the scope's only one, nginx answered, which
    /// must be what the scope is charged with.
    #[track_caller]
    pub fn charged_as_served(&self, scope: &str, key: &str) -> u64 {
        let (served, used) = (self.nginx.served(key), self.limiter.usage(scope).used);
        assert_eq!(served, used, "served and charged, {scope}");
        used
    }

    /// Waits until the scope has nothing in flight and no connection, and neither side has a socket
    /// left.
    #[track_caller]
    pub fn assert_no_sockets(&self, scope: &str) {
        self.assert_nothing_left(scope);
        Nginx::wait_until_no_client_sockets(&self.lab, GUARDED);
    }

    /// Waits until the scope has nothing in flight and no connection, and the
    /// server has no socket left.
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
