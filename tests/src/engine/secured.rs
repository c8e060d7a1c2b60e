// SPDX-License-Identifier: MIT OR Apache-2.0

//! A server that accepts only TLS, and only users with passwords.

use std::{
    fs,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::{Engine, Place, Program, certificates::Certificate};

/// The user of the tests, who may do everything, and the password.
const TESTER: [&str; 2] = ["tester", "the-password-of-the-tests"];

/// A server that accepts only TLS, and only users with passwords. The user of limiter is one of
/// them.
#[derive(Debug)]
pub struct Secured {
    pub engine: Engine,
    /// The authority that has signed the certificate of the server.
    pub authority: Certificate,
    directory: PathBuf,
}

impl Secured {
    /// The name of the user of limiter.
    pub const USER: &'static str = "limiter";
    /// The password of this user.
    pub const PASSWORD: &'static str = "a-password-that-no-log-may-contain";

    /// Starts a Redis 7, the only program of the tests that has TLS. `user` is the line of the user
    /// of limiter in the list of users.
    #[track_caller]
    pub fn start(place: Place<'_>, directory: &Path, user: &str, options: &[&str]) -> Self {
        let authority = Certificate::authority(directory, "authority");
        let server = authority.sign(directory, "server", place.host);
        let [tester, password] = TESTER;
        let users = directory.join("users.acl");
        let lines = format!("user default off\nuser {tester} on >{password} ~* &* +@all\n{user}\n");
        fs::write(&users, lines).expect("the list of users");
        let port = place.port.to_string();
        let secured = [
            ["--port", "0"],
            ["--tls-port", &port],
            ["--tls-cert-file", &server.certificate],
            ["--tls-key-file", &server.key],
            ["--tls-ca-cert-file", &authority.certificate],
            ["--tls-auth-clients", "no"],
            ["--aclfile", users.to_str().expect("a path in UTF-8")],
        ];
        let options = [secured.as_flattened(), options].concat();
        // The client of the tests accepts any certificate, because a test may replace it.
        let login = [
            ["--user", tester],
            ["--pass", password],
            ["--tls", "--insecure"],
        ];
        let engine = Engine::start_without_waiting(Program::Redis7, place, directory, &options)
            .with_cli_options(&[login.as_flattened(), &["--no-auth-warning"]].concat());
        engine.wait();
        Self {
            engine,
            authority,
            directory: directory.to_owned(),
        }
    }

    /// Writes `password` into a file that only root may read, and returns the path of the file.
    #[must_use]
    pub fn password_file(&self, password: &str) -> PathBuf {
        let path = self.directory.join(format!("password-{}", password.len()));
        let mut options = fs::File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600);
        let file = file.open(&path).expect("a file with a password");
        std::io::Write::write_all(&mut &file, password.as_bytes()).expect("write a password");
        path
    }
}
