// SPDX-License-Identifier: MIT OR Apache-2.0

//! The addresses of servers.

use std::{fmt, str::FromStr};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

/// The address of a server of the engine, or of a Sentinel. It is read from `redis://HOST:PORT`, or
/// from `rediss://HOST:PORT` for a connection with TLS. The default port is 6379.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The name or IP address of the host.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Whether the connection uses TLS.
    pub tls: bool,
}

/// The reason why a string is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// The string is not a URL of one of these forms.
    #[error("{0:?} is not an address; write redis://HOST:PORT, or rediss://HOST:PORT for TLS")]
    Form(String),
    /// The URL contains a user, a password or the number of a database.
    #[error(
        "the address of {0} must not contain a user, a password or the number of a database; use \
         `user` and `password_file`"
    )]
    Extra(String),
}

impl Address {
    /// Returns whether the address is a loopback address, so that the traffic stays on this host.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }

    pub(super) fn connection_addr(&self) -> ConnectionAddr {
        let (host, port) = (self.host.clone(), self.port);
        if self.tls {
            return ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: None,
            };
        }
        ConnectionAddr::Tcp(host, port)
    }
}

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let form = || BadAddress::Form(text.to_owned());
        let info: ConnectionInfo = text.into_connection_info().map_err(|_| form())?;
        let (host, port, tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (host, port, false),
            ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                ..
            } => (host, port, true),
            _ => return Err(form()),
        };
        let settings = info.redis_settings();
        if settings.username().is_some() || settings.password().is_some() || settings.db() != 0 {
            return Err(BadAddress::Extra(host.clone()));
        }
        Ok(Self {
            host: host.clone(),
            port: *port,
            tls,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}"),
            false => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_urls_with_host_and_port() {
        let address = |host: &str, port, tls| Address {
            host: host.to_owned(),
            port,
            tls,
        };
        for (text, expected) in [
            ("redis://10.0.0.1:7000", address("10.0.0.1", 7000, false)),
            ("rediss://engine-1:6379", address("engine-1", 6379, true)),
            ("redis://engine-1", address("engine-1", 6379, false)),
            ("redis://[::1]:7", address("::1", 7, false)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        assert_eq!(address("::1", 7, false).to_string(), "[::1]:7");
        assert!(address("127.0.0.9", 1, false).is_loopback());
        assert!(!address("10.0.0.1", 1, false).is_loopback());
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for text in [
            "",
            "engine-1:6379",
            "http://engine-1",
            "unix:///run/redis",
            "rediss://a:1/#insecure",
        ] {
            assert!(
                matches!(text.parse::<Address>(), Err(BadAddress::Form(_))),
                "{text}"
            );
        }
        for text in ["redis://u:secret@a", "redis://a/3"] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error, BadAddress::Extra("a".to_owned()), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
