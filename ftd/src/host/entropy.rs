//! Random bytes from the host's kernel, for virtio-rng and for identifiers.

use std::io;

/// Fills `buf` with random bytes from the kernel's generator (getrandom(2) without flags: it waits
/// for the generator's first seeding after boot and never after that).
///
/// # Errors
/// Whatever getrandom(2) fails with; in practice only ENOSYS under a strict seccomp filter.
#[allow(unsafe_code)]
pub fn fill(buf: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buf.len() {
        let rest = &mut buf[filled..];
        // SAFETY: the pointer and length describe `rest`, which is borrowed mutably for the call.
        let count = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => filled += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// `len` random bytes.
///
/// # Errors
/// As [`fill`].
pub fn bytes(len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    fill(&mut buf)?;
    Ok(buf)
}

/// A random number, uniform over all of `u64`.
///
/// # Errors
/// As [`fill`].
pub fn random_u64() -> io::Result<u64> {
    let mut buf = [0; 8];
    fill(&mut buf)?;
    Ok(u64::from_le_bytes(buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_more_than_one_call_gives() {
        // getrandom may stop short beyond 256 bytes, and does beyond 32 MiB.
        let first = bytes(1 << 20).unwrap();
        let second = bytes(1 << 20).unwrap();
        assert_ne!(first, second);
        let zeros = first.iter().filter(|&&byte| byte == 0).count();
        assert!(
            (3000..5300).contains(&zeros),
            "{zeros} zeros in a random MiB"
        );
        assert_ne!(random_u64().unwrap(), random_u64().unwrap());
    }

    #[test]
    fn nothing_is_fine() {
        assert!(bytes(0).unwrap().is_empty());
    }
}
