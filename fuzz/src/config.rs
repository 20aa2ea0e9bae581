//! The configuration file.

use ftd::cli::pair_arguments_of;

/// The data are the file's text.
///
/// # Panics
/// What is accepted is no list of long flags.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match pair_arguments_of(text) {
        Ok(arguments) => {
            for argument in arguments {
                assert!(
                    argument.as_encoded_bytes().starts_with(b"--"),
                    "{argument:?}"
                );
            }
        }
        Err(why) => assert!(!why.is_empty()),
    }
}
