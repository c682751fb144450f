//! Passwords: argon2id hashes in PHC form, checked off the data threads.
//!
//! Costs come from the stored hash, bounded when the rules are loaded. Must never tell an unknown
//! user from a wrong password, in answer or in work.

use super::denial::{self, Denial};
use super::{Admission, PasswordCheck};
use crate::config::secret::Secret;
use argon2::password_hash::phc::{Output, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, Version};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Memory of one check, KiB; more in a hash is refused at load. `limits.password_checks` of them
/// run at once.
pub const MEMORY_KIB_MAX: u32 = 64 * 1024;
/// Passes over the memory; more is refused at load.
pub const PASSES_MAX: u32 = 10;
/// Lanes; more is refused at load.
pub const LANES_MAX: u32 = 4;

/// Memory, passes and lanes of new hashes: OWASP's first choice for argon2id.
pub const DEFAULT_COST: (u32, u32, u32) = (19_456, 2, 1);

/// A parsed hash: cheap to clone, small, without secrets.
#[derive(Clone)]
pub(crate) struct StoredHash {
    params: Params,
    salt: Arc<[u8]>,
    output: Arc<[u8]>,
}

impl StoredHash {
    /// Parses `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    ///
    /// # Errors
    /// What is wrong and what to do, without the hash.
    pub(crate) fn parse(phc: &str) -> Result<Self, &'static str> {
        const FORM: &str = "no argon2id hash; write $argon2id$v=19$m=…,t=…,p=…$salt$hash";
        let parsed = PasswordHash::new(phc).map_err(|_| FORM)?;
        if parsed.algorithm.as_str() != "argon2id" {
            return Err("only argon2id hashes are taken; hash the password again");
        }
        if parsed.version.is_some_and(|v| v != 19) {
            return Err("only argon2 version 19 is taken; hash the password again");
        }
        let params = Params::try_from(&parsed).map_err(|_| FORM)?;
        if params.m_cost() > MEMORY_KIB_MAX {
            return Err("the hash costs more than 64 MiB (m=65536); hash again with less memory");
        }
        if params.t_cost() > PASSES_MAX || params.p_cost() > LANES_MAX {
            return Err("the hash costs more than t=10, p=4; hash again with less");
        }
        let salt = parsed.salt.ok_or(FORM)?;
        let output = parsed.hash.ok_or(FORM)?;
        if salt.len() < argon2::MIN_SALT_LEN || !(16..=64).contains(&output.len()) {
            return Err("the salt needs 8 bytes or more, the hash 16 to 64");
        }
        let params = Params::new(
            params.m_cost(),
            params.t_cost(),
            params.p_cost(),
            Some(output.len()),
        )
        .map_err(|_| FORM)?;
        Ok(Self {
            params,
            salt: salt.as_ref().into(),
            output: output.as_bytes().into(),
        })
    }

    /// A hash of nothing, of the given cost: the work an unknown user causes.
    pub(crate) fn dummy(cost: (u32, u32, u32)) -> Self {
        let params = Params::new(cost.0, cost.1, cost.2, Some(32)).unwrap_or(Params::DEFAULT);
        Self {
            params,
            salt: [0x5a; 16].into(),
            output: [0; 32].into(),
        }
    }

    /// Memory, passes, lanes.
    pub(crate) fn cost(&self) -> (u32, u32, u32) {
        let p = &self.params;
        (p.m_cost(), p.t_cost(), p.p_cost())
    }

    fn matches(&self, password: &[u8]) -> bool {
        let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        let mut output = zeroize::Zeroizing::new(vec![0u8; self.output.len()]);
        let hashed = argon.hash_password_into(password, &self.salt, &mut output);
        hashed.is_ok() && bool::from(output.as_slice().ct_eq(&self.output))
    }
}

impl PasswordCheck {
    pub(crate) fn new(
        password: &[u8],
        hash: StoredHash,
        outcome: Result<Admission, Denial>,
    ) -> Self {
        Self {
            password: Secret::new(password.to_vec()),
            hash,
            outcome: Box::new(outcome),
        }
    }

    /// Runs the check: tens of milliseconds of CPU, the same for an unknown user.
    ///
    /// # Errors
    /// The denial, the same for an unknown user and a wrong password. Anything else (another
    /// device's client id, a disabled device) is told only to who knows the password.
    pub fn run(self) -> Result<Admission, Denial> {
        if self.hash.matches(self.password.expose()) {
            *self.outcome
        } else {
            Err(denial::BAD_PASSWORD)
        }
    }

    /// Memory the check needs while it runs, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.hash.params.m_cost() as usize * 1024
    }
}

/// Hashes a password with [`DEFAULT_COST`] for a rules file. `salt`: 16 random bytes.
///
/// # Errors
/// When the password is empty or the salt shorter than 8 or longer than 48 bytes.
pub fn hash_password(password: &[u8], salt: &[u8]) -> Result<String, &'static str> {
    hash_password_with(password, salt, DEFAULT_COST)
}

/// As [`hash_password`], with memory (KiB), passes and lanes of one's own.
///
/// # Errors
/// As [`hash_password`], and when the cost is out of bounds.
pub fn hash_password_with(
    password: &[u8],
    salt: &[u8],
    (memory, passes, lanes): (u32, u32, u32),
) -> Result<String, &'static str> {
    if password.is_empty() {
        return Err("the password is empty");
    }
    if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || lanes > LANES_MAX {
        return Err("the cost is above what the gateway takes (m=65536, t=10, p=4)");
    }
    let params = Params::new(memory, passes, lanes, Some(32)).map_err(|_| "cost out of bounds")?;
    if salt.len() < argon2::MIN_SALT_LEN {
        return Err("the salt needs 8 bytes or more");
    }
    let salt_text = Salt::new(salt).map_err(|_| "the salt is too long")?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut output = [0u8; 32];
    argon
        .hash_password_into(password, salt, &mut output)
        .map_err(|_| "argon2 refused the input")?;
    let encoded = Output::new(&output).map_err(|_| "argon2 output")?;
    Ok(format!(
        "$argon2id$v=19$m={memory},t={passes},p={lanes}${salt_text}${encoded}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: (u32, u32, u32) = (64, 1, 1);

    #[test]
    fn a_hash_is_read_back_and_matches_only_its_password() {
        let phc = hash_password_with(b"secret\0pass", &[7; 16], CHEAP).unwrap();
        let stored = StoredHash::parse(&phc).unwrap();
        assert_eq!(stored.cost(), CHEAP);
        assert!(stored.matches(b"secret\0pass"));
        for wrong in [
            &b"secret"[..],
            b"secret\0pas",
            b"",
            b"secret\0passx",
            b"Secret\0pass",
        ] {
            assert!(!stored.matches(wrong));
        }
    }

    #[test]
    fn a_hash_of_the_reference_implementation_is_taken() {
        // argon2 -id -t 2 -m 16 -p 1 -l 32 <<< password, salt "somesalt" (the C reference's test)
        let phc = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ\
                   $CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        let stored = StoredHash::parse(phc).unwrap();
        assert!(stored.matches(b"password"));
    }

    #[test]
    fn absurd_or_foreign_hashes_are_refused_at_load() {
        let tail = "$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        for head in [
            "$argon2id$v=19$m=4194304,t=2,p=1",
            "$argon2id$v=19$m=64,t=1000000,p=1",
            "$argon2id$v=19$m=4096,t=1,p=64",
            "$argon2i$v=19$m=64,t=1,p=1",
            "$argon2id$v=16$m=64,t=1,p=1",
            "$2b$12",
            "",
        ] {
            let error = StoredHash::parse(&format!("{head}{tail}")).err();
            assert!(error.is_some(), "{head}");
        }
        assert!(StoredHash::parse("$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHQ").is_err());
    }

    #[test]
    fn an_unknown_user_never_gets_in_whatever_the_hash_says() {
        assert!(!StoredHash::dummy(CHEAP).matches(b""));
        assert!(hash_password(b"", &[1; 16]).is_err());
    }
}
