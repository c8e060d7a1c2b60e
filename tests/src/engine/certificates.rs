// SPDX-License-Identifier: MIT OR Apache-2.0

//! Certificates of servers, and the authorities that sign them.

use std::{fs, path::Path, process::Command};

use crate::process;

/// The options of openssl for a new key, which is not encrypted.
const NEW_KEY: [&str; 5] = [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:prime256v1",
    "-nodes",
];

/// A certificate and its private key, as paths of files.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub certificate: String,
    pub key: String,
}

impl Certificate {
    /// Returns the paths of the files with the name `name` in `directory`.
    fn paths(directory: &Path, name: &str) -> Self {
        let path = |ending: &str| text(&directory.join(format!("{name}.{ending}")));
        Self {
            certificate: path("pem"),
            key: path("key"),
        }
    }

    /// Creates an authority with the name `name`, with its files in `directory`.
    #[must_use]
    pub fn authority(directory: &Path, name: &str) -> Self {
        let files = Self::paths(directory, name);
        let subject = format!("/CN={name}");
        let words = ["req", "-x509", "-subj", &subject];
        let out = ["-keyout", &files.key, "-out", &files.certificate];
        openssl(&[&words[..], &out, &NEW_KEY].concat());
        files
    }

    /// Returns a certificate for a server with the IP address `host` that this authority has
    /// signed. Its files have the name `name` and are in `directory`.
    #[must_use]
    pub fn sign(&self, directory: &Path, name: &str, host: &str) -> Self {
        let files = Self::paths(directory, name);
        let request = text(&directory.join(format!("{name}.csr")));
        let extensions = text(&directory.join(format!("{name}.ext")));
        fs::write(&extensions, format!("subjectAltName=IP:{host}")).expect("a file");
        let words = ["req", "-subj", "/CN=engine"];
        let out = ["-keyout", &files.key, "-out", &request];
        openssl(&[&words[..], &out, &NEW_KEY].concat());
        let authority = ["-CA", &self.certificate, "-CAkey", &self.key];
        let words = ["x509", "-req", "-in", &request, "-CAcreateserial"];
        let out = ["-extfile", &extensions, "-out", &files.certificate];
        openssl(&[&words[..], &authority, &out].concat());
        files
    }
}

fn openssl(words: &[&str]) {
    process::succeed(Command::new("openssl").args(words));
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}
