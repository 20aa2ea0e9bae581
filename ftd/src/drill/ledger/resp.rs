//! Redis' serialization protocol, version 2 (redis.io, "Redis serialization protocol
//! specification"): requests are arrays of bulk strings, answers are one of five types.

/// Longest bulk string that is accepted, in bytes. Redis' own limit is 512 MiB; nothing the ledger
/// reads back is near this.
const BULK_BYTES_MAX: usize = 64 << 20;
/// Most elements that are accepted in one array.
const ARRAY_LEN_MAX: usize = 1 << 20;
/// Longest line (type byte to CRLF), in bytes.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Deepest nesting of arrays.
const DEPTH_MAX: u32 = 4;

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `+text`: a simple string.
    Simple(String),
    /// `-text`: an error.
    Error(String),
    /// `:number`.
    Integer(i64),
    /// `$length`, bytes; `None` is the null bulk string (no such key).
    Bulk(Option<Vec<u8>>),
    /// `*count`, values; a null array reads as an empty one.
    Array(Vec<Value>),
}

/// Bytes that are no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RespError {
    /// The first byte names no type.
    #[error("unknown type byte {0:#04x}")]
    Type(u8),
    /// A number can't be read, or is outside its range.
    #[error("bad number")]
    Number,
    /// A bulk string isn't followed by CRLF.
    #[error("bulk string without CRLF")]
    Terminator,
    /// A line, string, array or nesting beyond what is accepted.
    #[error("answer too large")]
    TooLarge,
}

/// Appends a request to `out`.
pub fn request(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads the value at the start of `bytes`: it and its length in bytes, or `None` when more bytes
/// are needed.
///
/// # Errors
/// When the bytes are no valid beginning of an answer.
pub fn parse(bytes: &[u8]) -> Result<Option<(Value, usize)>, RespError> {
    parse_at(bytes, 0)
}

fn parse_at(bytes: &[u8], depth: u32) -> Result<Option<(Value, usize)>, RespError> {
    let Some(kind) = bytes.first() else {
        return Ok(None);
    };
    if !b"+-:$*".contains(kind) {
        return Err(RespError::Type(*kind));
    }
    let Some((line, mut used)) = line(bytes)? else {
        return Ok(None);
    };
    let text = || String::from_utf8_lossy(line).into_owned();
    let value = match kind {
        b'+' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b':' => Value::Integer(number(line)?),
        b'$' => {
            let length = number(line)?;
            if length == -1 {
                return Ok(Some((Value::Bulk(None), used)));
            }
            let length = usize::try_from(length).map_err(|_| RespError::Number)?;
            if length > BULK_BYTES_MAX {
                return Err(RespError::TooLarge);
            }
            let Some(body) = bytes.get(used..used + length + 2) else {
                return Ok(None);
            };
            if &body[length..] != b"\r\n" {
                return Err(RespError::Terminator);
            }
            used += length + 2;
            Value::Bulk(Some(body[..length].to_vec()))
        }
        _ => {
            let count = number(line)?;
            if count == -1 {
                return Ok(Some((Value::Array(Vec::new()), used)));
            }
            let count = usize::try_from(count).map_err(|_| RespError::Number)?;
            if count > ARRAY_LEN_MAX || depth >= DEPTH_MAX {
                return Err(RespError::TooLarge);
            }
            let mut values = Vec::new();
            for _ in 0..count {
                let Some((value, length)) = parse_at(&bytes[used..], depth + 1)? else {
                    return Ok(None);
                };
                values.push(value);
                used += length;
            }
            Value::Array(values)
        }
    };
    Ok(Some((value, used)))
}

/// The first line without type byte and CRLF, and the length with them.
fn line(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, RespError> {
    match bytes
        .windows(2)
        .take(LINE_BYTES_MAX)
        .position(|pair| pair == b"\r\n")
    {
        Some(end) if end >= 1 => Ok(Some((&bytes[1..end], end + 2))),
        Some(_) => Err(RespError::Terminator),
        None if bytes.len() > LINE_BYTES_MAX => Err(RespError::TooLarge),
        None => Ok(None),
    }
}

fn number(line: &[u8]) -> Result<i64, RespError> {
    let text = std::str::from_utf8(line).map_err(|_| RespError::Number)?;
    text.parse().map_err(|_| RespError::Number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(value: &Value, out: &mut Vec<u8>) {
        match value {
            Value::Simple(text) => out.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Value::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
            Value::Integer(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Value::Bulk(None) => out.extend_from_slice(b"$-1\r\n"),
            Value::Bulk(Some(bytes)) => {
                out.extend_from_slice(format!("${}\r\n", bytes.len()).as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Value::Array(values) => {
                out.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
                values.iter().for_each(|value| encode(value, out));
            }
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            "[ -~]{0,20}".prop_map(Value::Simple),
            "[ -~]{0,20}".prop_map(Value::Error),
            any::<i64>().prop_map(Value::Integer),
            Just(Value::Bulk(None)),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|b| Value::Bulk(Some(b))),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            proptest::collection::vec(inner, 0..4).prop_map(Value::Array)
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_parses_and_every_prefix_is_incomplete(value in values()) {
            let mut bytes = Vec::new();
            encode(&value, &mut bytes);
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Ok(None));
            }
            let length = bytes.len();
            bytes.extend_from_slice(b"+NEXT\r\n");
            prop_assert_eq!(parse(&bytes), Ok(Some((value, length))));
        }

        #[test]
        fn any_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        request(&mut out, &[b"SET", b"k", b""]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n");
    }

    #[test]
    fn wrong_bytes_are_named() {
        assert_eq!(parse(b"HTTP"), Err(RespError::Type(b'H')));
        assert_eq!(parse(b":x\r\n"), Err(RespError::Number));
        assert_eq!(parse(b"$1\r\nabc"), Err(RespError::Terminator));
        assert_eq!(parse(b"$99999999999\r\n"), Err(RespError::TooLarge));
        assert_eq!(
            parse(b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"),
            Err(RespError::TooLarge)
        );
    }
}
