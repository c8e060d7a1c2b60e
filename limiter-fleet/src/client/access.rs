// SPDX-License-Identifier: MIT OR Apache-2.0

//! The user, the password and the certificates of a connection.

use std::fmt;

use redis::{
    ClientTlsConfig, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, TlsCertificates,
};
use zeroize::Zeroizing;

use super::address::Address;

/// The credentials of a connection.
#[derive(Clone, Default)]
pub struct Access {
    /// The name of the user (ACL), or `None` for the default user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<Zeroizing<String>>,
    /// The certificates.
    pub certificates: Certificates,
}

/// The certificates of a connection, in PEM format.
#[derive(Clone, Default)]
pub struct Certificates {
    /// The certificates of the certificate authorities that sign the server's certificate. `None`
    /// means the authorities that the operating system trusts.
    pub authorities: Option<Vec<u8>>,
    /// The client certificate and its private key, if the server requires them.
    pub client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password and the key are left out.
        f.debug_struct("Access")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl Access {
    pub(super) fn connection_info(&self, address: &Address) -> ConnectionInfo {
        let mut settings = RedisConnectionInfo::default();
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password.as_str());
        }
        match address.connection_addr().into_connection_info() {
            Ok(info) => info.set_redis_settings(settings),
            // An address with host and port is always accepted.
            Err(error) => unreachable!("{error}"),
        }
    }

    pub(super) fn certificates(&self) -> TlsCertificates {
        let client = self.certificates.client.as_ref();
        TlsCertificates {
            client_tls: client.map(|(certificate, key)| ClientTlsConfig {
                client_cert: certificate.clone(),
                client_key: key.to_vec(),
            }),
            root_cert: self.certificates.authorities.clone(),
        }
    }
}

/// Makes ring the TLS provider of this process, unless another one was installed before.
pub(super) fn choose_provider() {
    // An error means that a provider was chosen before.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
}
