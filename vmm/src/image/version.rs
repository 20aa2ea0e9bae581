//! Which of two versions is newer: the UAPI group's Version Format Specification (UAPI.10).

use std::cmp::Ordering;

/// Compares two version strings, such as `6.1.0-9-cloud-amd64` and `6.1.0-10-cloud-amd64`.
#[must_use]
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip_separators(a);
        b = skip_separators(b);
        // A tilde marks a pre-release: older than the same version without it.
        if let Some(order) = marker(&mut a, &mut b, b'~') {
            return order;
        }
        match (a.is_empty(), b.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        if let Some(order) = [b'-', b'^', b'.']
            .into_iter()
            .find_map(|mark| marker(&mut a, &mut b, mark))
        {
            return order;
        }
        let digits = starts_with_digit(a) || starts_with_digit(b);
        let order = if digits {
            // An empty number is older than any, zero included.
            let (x, y) = (
                take(&mut a, u8::is_ascii_digit),
                take(&mut b, u8::is_ascii_digit),
            );
            compare_numbers(x, y)
        } else {
            let (x, y) = (
                take(&mut a, u8::is_ascii_alphabetic),
                take(&mut b, u8::is_ascii_alphabetic),
            );
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// If one of the two goes on with `mark`, it is the older one. If both do, it is passed over.
fn marker(a: &mut &[u8], b: &mut &[u8], mark: u8) -> Option<Ordering> {
    match (a.first() == Some(&mark), b.first() == Some(&mark)) {
        (true, true) => {
            *a = &a[1..];
            *b = &b[1..];
            None
        }
        (true, false) => Some(Ordering::Less),
        (false, true) => Some(Ordering::Greater),
        (false, false) => None,
    }
}

fn skip_separators(version: &[u8]) -> &[u8] {
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    let start = version.iter().position(valid).unwrap_or(version.len());
    &version[start..]
}

fn starts_with_digit(version: &[u8]) -> bool {
    version.first().is_some_and(u8::is_ascii_digit)
}

fn take<'a>(version: &mut &'a [u8], of: fn(&u8) -> bool) -> &'a [u8] {
    let end = version
        .iter()
        .position(|byte| !of(byte))
        .unwrap_or(version.len());
    let (taken, rest) = version.split_at(end);
    *version = rest;
    taken
}

fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |number: &[u8]| {
        let start = number
            .iter()
            .position(|d| *d != b'0')
            .unwrap_or(number.len());
        number[start..].to_vec()
    };
    let empty = a.is_empty().cmp(&b.is_empty()).reverse();
    let (x, y) = (strip(a), strip(b));
    empty.then(x.len().cmp(&y.len())).then_with(|| x.cmp(&y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_specification_are_in_order() {
        // The examples of UAPI.10, oldest first.
        let sorted = [
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
        ];
        let sorted2 = ["123^post1", "123.a-1", "123.1-1", "123a-1", "124-1"];
        let all: Vec<&str> = sorted.into_iter().chain(sorted2).collect();
        for (index, a) in all.iter().enumerate() {
            for (other, b) in all.iter().enumerate() {
                assert_eq!(compare(a, b), index.cmp(&other), "{a} {b}");
            }
        }
    }

    #[test]
    fn kernel_abi_numbers_count_as_numbers() {
        assert_eq!(
            compare("6.1.0-9-cloud-amd64", "6.1.0-10-cloud-amd64"),
            Ordering::Less
        );
        assert_eq!(
            compare("6.1.0-10-amd64", "6.1.0-010-amd64"),
            Ordering::Equal
        );
        assert_eq!(compare("", ""), Ordering::Equal);
    }
}
