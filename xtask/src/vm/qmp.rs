// SPDX-License-Identifier: MIT OR Apache-2.0

//! Sends commands to a running QEMU in its protocol, which consists of lines of JSON (QMP).

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// The time limit for a response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A network card that can be unplugged and plugged in again while the machine runs.
#[derive(Debug)]
pub struct Card {
    pub name: &'static str,
    /// The id of the network backend (`-netdev`) to which QEMU connects the card.
    pub cable: &'static str,
    mac: &'static str,
}

/// The network cards of the machine. Tests recognize the cards by their hardware addresses, which
/// are locally administered.
pub const CARDS: [Card; 2] = [
    Card {
        name: "card0",
        cable: "end0",
        mac: "52:54:00:00:00:10",
    },
    Card {
        name: "card1",
        cable: "end1",
        mac: "52:54:00:00:00:11",
    },
];

const DRIVER: &str = "virtio-net-pci";

impl Card {
    /// Returns the value of QEMU's option `-device` for this card.
    pub fn device(&self) -> String {
        let Self { name, cable, mac } = self;
        format!("{DRIVER},id={name},netdev={cable},mac={mac},romfile=")
    }

    fn named(name: &str) -> anyhow::Result<&'static Self> {
        let card = CARDS.iter().find(|card| card.name == name);
        card.with_context(|| format!("the machine has no card {name:?}"))
    }
}

/// A connection to a running QEMU.
pub struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)
            .with_context(|| format!("connect to {}", socket.display()))?;
        stream
            .set_read_timeout(Some(TIMEOUT))
            .context("set a time limit")?;
        let mut qmp = Self {
            reader: BufReader::new(stream),
        };
        qmp.read().context("QEMU's greeting")?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Asks the machine to release a card, and waits until QEMU has unplugged it.
    pub fn unplug(&mut self, name: &str) -> anyhow::Result<()> {
        let card = Card::named(name)?;
        self.ask("device_del", &json!({ "id": card.name }))?;
        loop {
            let message = self.read()?;
            if message["event"] == "DEVICE_DELETED" && message["data"]["device"] == card.name {
                return Ok(());
            }
        }
    }

    /// Plugs a card in again.
    pub fn plug(&mut self, name: &str) -> anyhow::Result<()> {
        let Card { name, cable, mac } = Card::named(name)?;
        let device =
            json!({ "driver": DRIVER, "id": name, "netdev": cable, "mac": mac, "romfile": "" });
        self.ask("device_add", &device)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> anyhow::Result<()> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.reader.get_mut(), "{request}")
            .with_context(|| format!("send {command} to QEMU"))?;
        loop {
            let message = self.read()?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refused {request}: {error}");
            }
        }
    }

    fn read(&mut self) -> anyhow::Result<Value> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        if read.context("read an answer of QEMU")? == 0 {
            bail!("QEMU has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("QEMU sent {line:?}"))
    }
}
