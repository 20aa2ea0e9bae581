//! Test-and-set in etcd (3.4 or later), for hosts that share no disk and for more than two of them.
//!
//! A generation is decided by the existence of one key, made by a transaction that succeeds only if it does
//! not exist, nor any of a later generation. Keys are never deleted, so asking again gives the same answer,
//! even to a bidder whose first answer got lost. The winner's sign of life is another key, written over again
//! and again. All that is read is linearizable, which is etcd's default: a member that is cut off from the
//! others has no answer.
//!
//! ```text
//! PREFIX/VM/generation/00000000000000000007   the winner's identifier
//! PREFIX/VM/sign/00000000000000000007         its last sign, as JSON
//! PREFIX/VM/candidate/00000000000000000008/ID  the last epoch that a candidate has, as a number
//! ```
//!
//! etcd keeps each version of a key until it is told to compact, and a sign is two versions a second: it must
//! run with `--auto-compaction-retention`.

mod address;
mod gateway;
mod member;

pub use address::Address;
pub use gateway::GatewayError;

use serde_json::{Value, json};

use super::candidate::Standing;
use super::directory::encode;
use super::{Arbiter, ArbiterError, ID_BYTES_MAX, Sign, Verdict};
use gateway::{Found, Gateway, base64};

/// An arbiter in etcd.
#[derive(Debug)]
pub struct EtcdArbiter {
    /// As it was given, for people.
    name: String,
    gateway: Gateway,
    /// What the keys of this machine begin with.
    prefix: String,
    host_id: String,
    /// The generation of the last sign written here, 0 for none.
    signed: u64,
}

impl EtcdArbiter {
    /// Finds it. Identifiers are as in [`super::open`].
    ///
    /// # Errors
    /// [`ArbiterError::BadEtcd`] for an address that is none, [`ArbiterError::Etcd`] if it does not answer or its
    /// names are not known.
    pub fn open(name: &str, vm_id: &str, host_id: &str) -> Result<Self, ArbiterError> {
        let bad = |why| ArbiterError::BadEtcd {
            address: name.to_owned(),
            why,
        };
        let Address { endpoints, prefix } = Address::parse(name).map_err(bad)?;
        let members = member::find(&endpoints).map_err(|source| ArbiterError::Etcd {
            name: name.to_owned(),
            source,
        })?;
        let mut arbiter = EtcdArbiter {
            name: name.to_owned(),
            gateway: Gateway::new(members),
            prefix: format!("{prefix}/{}", encode(vm_id)),
            host_id: host_id.to_owned(),
            signed: 0,
        };
        arbiter.current_generation()?;
        Ok(arbiter)
    }

    /// Numbers sort as text.
    fn decision(&self, generation: u64) -> String {
        format!("{}/generation/{generation:020}", self.prefix)
    }

    /// Behind the last decision that there can be.
    fn decisions_end(&self) -> String {
        format!("{}/generation0", self.prefix)
    }

    fn sign_key(&self, generation: u64) -> String {
        format!("{}/sign/{generation:020}", self.prefix)
    }

    /// What the keys of the candidates for a generation begin with.
    fn candidates(&self, generation: u64) -> String {
        format!("{}/candidate/{generation:020}/", self.prefix)
    }

    fn corrupt(&self, key: &str, what: &str) -> ArbiterError {
        ArbiterError::Corrupt {
            path: format!("{} in {}", key, self.name).into(),
            what: what.to_owned(),
        }
    }

    /// A transaction; whether its condition held, and what was found.
    fn transact(&mut self, transaction: &Value) -> Result<(bool, Vec<Found>), ArbiterError> {
        let done = self.gateway.transact(transaction);
        done.map_err(|source| ArbiterError::Etcd {
            name: self.name.clone(),
            source,
        })
    }

    /// What is found, whatever is there.
    fn read(&mut self, ranges: &[Value]) -> Result<Vec<Found>, ArbiterError> {
        let success: Vec<Value> = ranges
            .iter()
            .map(|range| json!({ "request_range": range }))
            .collect();
        Ok(self.transact(&json!({ "success": success }))?.1)
    }

    fn number_of(&self, key: &str) -> Result<u64, ArbiterError> {
        let number = key.rsplit('/').next().and_then(|text| text.parse().ok());
        number.ok_or_else(|| self.corrupt(key, "its name ends in no generation"))
    }

    /// Later decisions than that of `generation`: the last one.
    fn later(&self, generation: u64) -> Value {
        json!({
            "key": base64(&self.decision(generation.saturating_add(1))),
            "range_end": base64(&self.decisions_end()),
            "sort_order": "DESCEND", "sort_target": "KEY", "limit": "1", "keys_only": true,
        })
    }
}

/// `key` does not exist, nor (with an end) any up to there.
fn is_missing(key: &str, end: Option<&str>) -> Value {
    let mut condition = json!({
        "key": base64(key), "target": "CREATE", "result": "EQUAL", "create_revision": "0",
    });
    if let Some(end) = end {
        condition["range_end"] = base64(end).into();
    }
    condition
}

impl Arbiter for EtcdArbiter {
    fn test_and_set(&mut self, generation: u64) -> Result<Verdict, ArbiterError> {
        if generation == 0 {
            return Err(ArbiterError::GenerationZero);
        }
        let key = self.decision(generation);
        let read = json!({ "request_range": { "key": base64(&key) } });
        let later = json!({ "request_range": self.later(generation) });
        let put = json!({ "request_put": { "key": base64(&key), "value": base64(&self.host_id) } });
        let (made, found) = self.transact(&json!({
            "compare": [is_missing(&key, Some(&self.decisions_end()))],
            "success": [put],
            "failure": [read, later],
        }))?;
        if made {
            return Ok(Verdict::Won);
        }
        if let Some(Found { value, .. }) = found.iter().find(|found| found.key == key) {
            let winner = String::from_utf8(value.clone())
                .ok()
                .filter(|winner| !winner.is_empty() && winner.len() <= ID_BYTES_MAX)
                .ok_or_else(|| self.corrupt(&key, "it does not hold a decision"))?;
            return Ok(match winner == self.host_id {
                true => Verdict::Won,
                false => Verdict::Lost { winner },
            });
        }
        let newest = match found.first() {
            Some(found) => self.number_of(&found.key)?,
            None => return Err(self.corrupt(&key, "it is there and is not")),
        };
        Err(ArbiterError::Superseded { generation, newest })
    }

    fn current_generation(&mut self) -> Result<u64, ArbiterError> {
        let found = self.read(&[self.later(0)])?;
        found
            .first()
            .map_or(Ok(0), |found| self.number_of(&found.key))
    }

    fn stand(&mut self, generation: u64, through: u64) -> Result<Standing, ArbiterError> {
        let before = generation.saturating_sub(1);
        let (all, end) = (
            self.candidates(generation),
            self.candidates(generation.saturating_add(1)),
        );
        let key = format!("{all}{}", encode(&self.host_id));
        let (all64, end64) = (base64(&all), base64(&end));
        let (_, found) = self.transact(&json!({ "success": [
            { "request_put": { "key": base64(&key), "value": base64(&through.to_string()) } },
            // Those for earlier generations, which are decided.
            { "request_delete_range": { "key": base64(&self.candidates(0)), "range_end": all64 } },
            { "request_range": { "key": all64, "range_end": end64 } },
            { "request_range": self.later(before) },
        ] }))?;
        let (candidates, decisions): (Vec<_>, Vec<_>) = found
            .into_iter()
            .partition(|found| found.key.starts_with(&all));
        let number = |found: &Found| std::str::from_utf8(&found.value).ok()?.parse().ok();
        Ok(Standing {
            decided: !decisions.is_empty(),
            through: candidates.iter().filter_map(number).collect(),
        })
    }

    fn is_superseded(&mut self, generation: u64) -> Result<bool, ArbiterError> {
        let key = self.decision(generation);
        let found = self.read(&[json!({ "key": base64(&key) }), self.later(generation)])?;
        if found.iter().any(|found| found.key != key) {
            return Ok(true);
        }
        // An etcd that was set up anew would know of no later generation either.
        if found.is_empty() {
            return Err(self.corrupt(&key, "it was won and is gone; was etcd's data lost?"));
        }
        Ok(false)
    }

    fn sign(&mut self, sign: &Sign) -> Result<(), ArbiterError> {
        let generation = sign.generation;
        let key = self.sign_key(generation);
        let text = serde_json::to_string(sign)
            .map_err(|_| self.corrupt(&key, "a sign of life can't be written as JSON"))?;
        let mut success =
            vec![json!({ "request_put": { "key": base64(&key), "value": base64(&text) } })];
        if self.signed != generation {
            // Those of earlier winners, of which none is needed.
            success.push(json!({ "request_delete_range": {
                "key": base64(&self.sign_key(0)), "range_end": base64(&key),
            } }));
        }
        self.transact(&json!({ "success": success }))?;
        self.signed = generation;
        Ok(())
    }

    fn sign_of(&mut self, generation: u64) -> Result<Option<Sign>, ArbiterError> {
        let key = self.sign_key(generation);
        let found = self.read(&[json!({ "key": base64(&key) })])?;
        let sign: Option<Sign> = found
            .first()
            .and_then(|found| serde_json::from_slice(&found.value).ok());
        Ok(sign.filter(|sign| sign.generation == generation))
    }
}

#[cfg(test)]
mod tests;
