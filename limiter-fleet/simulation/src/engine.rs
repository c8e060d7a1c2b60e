// SPDX-License-Identifier: MIT OR Apache-2.0

//! A server that runs the scripts of `limiter_fleet::script` with the Lua of Redis and Valkey. It
//! has the commands that these scripts use, on hashes in memory. A test of limiter-tests compares
//! it with real servers.

use std::{cell::RefCell, collections::HashMap, fmt, rc::Rc};

use limiter_fleet::script;
use mlua::{Function, Lua, Table, Value, Variadic};

/// The hashes of a server, by key.
type Hashes = HashMap<String, HashMap<String, String>>;

/// The data and the clock of a server.
#[derive(Debug, Default)]
struct Data {
    hashes: Hashes,
    /// The time since the Unix epoch, in µs.
    now_us: u64,
}

/// A server.
pub struct Engine {
    lua: Lua,
    lease: Function,
    claim: Function,
    data: Rc<RefCell<Data>>,
    /// The name of the server, which a failover changes.
    pub name: String,
}

/// An error reply of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply(pub String);

impl fmt::Display for ErrorReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ErrorReply {}

impl Engine {
    /// Returns an empty server.
    ///
    /// # Errors
    /// Returns an error if the scripts cannot be compiled.
    pub fn new(name: &str) -> mlua::Result<Self> {
        let lua = Lua::new();
        let data = Rc::new(RefCell::new(Data::default()));
        let redis = lua.create_table()?;
        let of_calls = Rc::clone(&data);
        redis.set(
            "call",
            lua.create_function(move |lua, words: Variadic<String>| {
                command(lua, &mut of_calls.borrow_mut(), &words)
            })?,
        )?;
        redis.set(
            "error_reply",
            lua.create_function(|lua, message: String| {
                let reply = lua.create_table()?;
                reply.set("err", message)?;
                Ok(reply)
            })?,
        )?;
        lua.globals().set("redis", redis)?;
        Ok(Self {
            lease: lua.load(script::LEASE).into_function()?,
            claim: lua.load(script::CLAIM).into_function()?,
            lua,
            data,
            name: name.to_owned(),
        })
    }

    /// Sets the clock, in µs since the Unix epoch.
    pub fn set_time(&self, now_us: u64) {
        self.data.borrow_mut().now_us = now_us;
    }

    /// Returns a copy of the data.
    #[must_use]
    pub fn snapshot(&self) -> Hashes {
        self.data.borrow().hashes.clone()
    }

    /// Replaces the data.
    pub fn restore(&self, hashes: Hashes) {
        self.data.borrow_mut().hashes = hashes;
    }

    /// Returns whether there is a hash with the key `key`.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.data.borrow().hashes.contains_key(key)
    }

    /// Returns a field of a hash as a number, or 0.
    #[must_use]
    pub fn number(&self, key: &str, field: &str) -> u64 {
        let data = self.data.borrow();
        let text = data.hashes.get(key).and_then(|hash| hash.get(field));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Runs `script::LEASE`, and returns the replies for the scopes.
    ///
    /// # Errors
    /// Returns the error reply of the script.
    pub fn lease(
        &self,
        keys: &[String],
        arguments: &[String],
    ) -> Result<Vec<Vec<i64>>, ErrorReply> {
        let reply = self.run(&self.lease, keys, arguments)?;
        let Value::Table(reply) = reply else {
            return Err(ErrorReply(format!("{reply:?} is not a table")));
        };
        if let Ok(message) = reply.get::<String>("err") {
            return Err(ErrorReply(message));
        }
        // Like the server, this cuts off fractions.
        let numbers = |row: Table| {
            row.sequence_values::<f64>()
                .map(|n| n.map(|n| n as i64))
                .collect()
        };
        reply
            .sequence_values::<Table>()
            .map(|row| row.and_then(numbers))
            .collect::<mlua::Result<_>>()
            .map_err(|error| ErrorReply(error.to_string()))
    }

    /// Runs `script::CLAIM`.
    ///
    /// # Errors
    /// Returns an error if the script fails.
    pub fn claim(&self, keys: &[String], arguments: &[String]) -> Result<(), ErrorReply> {
        self.run(&self.claim, keys, arguments).map(drop)
    }

    fn run(
        &self,
        script: &Function,
        keys: &[String],
        arguments: &[String],
    ) -> Result<Value, ErrorReply> {
        let globals = self.lua.globals();
        globals
            .set("KEYS", keys)
            .and_then(|()| globals.set("ARGV", arguments))
            .and_then(|()| script.call(()))
            .map_err(|error| ErrorReply(error.to_string()))
    }
}

/// Runs one command of a script. Like the server, it returns `false` for a field that is missing.
fn command(lua: &Lua, data: &mut Data, words: &[String]) -> mlua::Result<Value> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let integer = |number: usize| Ok(Value::Number(number as f64));
    match words.as_slice() {
        ["HMGET", key, fields @ ..] => {
            let hash = data.hashes.get(*key);
            let values = lua.create_table_with_capacity(fields.len(), 0)?;
            for field in fields {
                match hash.and_then(|hash| hash.get(*field)) {
                    Some(value) => values.push(value.as_str())?,
                    None => values.push(false)?,
                }
            }
            Ok(Value::Table(values))
        }
        ["HSET", key, pairs @ ..] if pairs.len() % 2 == 0 => {
            let hash = data.hashes.entry((*key).to_owned()).or_default();
            for pair in pairs.chunks(2) {
                hash.insert(pair[0].to_owned(), pair[1].to_owned());
            }
            integer(pairs.len() / 2)
        }
        // The simulation has no subscribers.
        ["PUBLISH", _, _] => integer(0),
        ["DEL", key] => integer(usize::from(data.hashes.remove(*key).is_some())),
        // The simulated time is too short for an account to expire.
        ["EXPIREAT", key, _] => integer(usize::from(data.hashes.contains_key(*key))),
        ["TIME"] => {
            let time = lua.create_table()?;
            time.push((data.now_us / 1_000_000).to_string())?;
            time.push((data.now_us % 1_000_000).to_string())?;
            Ok(Value::Table(time))
        }
        _ => Err(mlua::Error::runtime(format!("no such command: {words:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_that_uses_an_unknown_command_fails() {
        let engine = Engine::new("a").unwrap();
        let redis: Table = engine.lua.globals().get("redis").unwrap();
        let call: Function = redis.get("call").unwrap();
        let error = call.call::<()>("GET").unwrap_err();
        assert!(error.to_string().contains("no such command"), "{error}");
    }
}
