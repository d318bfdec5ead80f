//! Takes what looks like a secret out of a text. Nothing secret is collected in the first place; this is for what somebody
//! wrote where it does not belong, and for logs.

/// What stands in its place.
const GONE: &str = "REDACTED";
/// Ends of names whose values are secret.
const NAMES: [&str; 8] =
    ["password", "passwd", "passphrase", "token", "secret", "authorization", "apikey", "private_key"];
/// Words before a secret.
const SCHEMES: [&str; 2] = ["bearer ", "basic "];
const PEM_BEGIN: &str = "-----BEGIN ";
const PEM_END: &str = "-----END ";

/// The text without secrets: values of names such as `password`, credentials of HTTP and in URLs, JSON web tokens,
/// and keys and certificates in PEM.
pub(super) fn redact(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut in_pem = false;
    for line in text.split_inclusive('\n') {
        if in_pem || line.contains(PEM_BEGIN) {
            if !in_pem {
                kept.push_str(&format!("{}{GONE}\n", line.split(PEM_BEGIN).next().unwrap_or_default()));
            }
            in_pem = line.rfind(PEM_BEGIN) > line.rfind(PEM_END) || (in_pem && !line.contains(PEM_END));
            continue;
        }
        kept.push_str(&tokens(&urls(&values(line))));
    }
    kept
}

/// The line without values of names that are secret: `name=value`, `name: value`, `"name":"value"`.
fn values(line: &str) -> String {
    // Octet by octet the same length, so that places are the same in both.
    let lower = line.to_ascii_lowercase();
    let mut kept = String::with_capacity(line.len());
    let mut at = 0;
    while let Some((begin, end)) = next_value(&lower, at) {
        kept.push_str(&line[at..begin]);
        kept.push_str(GONE);
        at = end;
    }
    kept.push_str(&line[at..]);
    kept
}

/// Where the next secret value begins and ends.
fn next_value(lower: &str, from: usize) -> Option<(usize, usize)> {
    let named = NAMES.iter().flat_map(|name| lower[from..].match_indices(name)).filter_map(|(at, name)| {
        let after = from + at + name.len();
        let rest = &lower[after..];
        let sign = rest.trim_start_matches(['"', '\'', '\\', ' ']);
        let value = sign.strip_prefix(['=', ':'])?;
        let value = value.trim_start_matches([' ', '"', '\'', '\\']);
        let begin = lower.len() - value.len();
        let quote = lower[..begin].chars().next_back().filter(|letter| ['"', '\''].contains(letter));
        let quoted =
            quote.and_then(|quote| value.find(quote)).map(|end| value[..end].trim_end_matches('\\').len());
        Some((begin, begin + quoted.unwrap_or_else(|| length(value))))
    });
    let schemes =
        SCHEMES.iter().flat_map(|scheme| lower[from..].match_indices(scheme)).map(|(at, scheme)| {
            let begin = from + at + scheme.len();
            (begin, begin + length(&lower[begin..]))
        });
    // An object, a list or nothing is no secret; what is said of it inside has names of its own.
    let is_value = |(begin, end): &(usize, usize)| end > begin && !lower[*begin..].starts_with(['{', '[']);
    named.chain(schemes).filter(is_value).min()
}

/// Octets of a value, up to what ends one. A scheme goes with what follows it.
fn length(value: &str) -> usize {
    let scheme = SCHEMES.iter().find(|scheme| value.starts_with(*scheme)).map_or(0, |scheme| scheme.len());
    let end = value[scheme..].find(|letter: char| letter.is_whitespace() || "\"',;&}\\".contains(letter));
    scheme + end.unwrap_or(value.len() - scheme)
}

/// The line without the credentials in URLs: `scheme://user:password@host`.
fn urls(line: &str) -> String {
    let mut kept = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        kept.push_str(before);
        let host = after
            .find(|letter: char| letter.is_whitespace() || "/\"'".contains(letter))
            .unwrap_or(after.len());
        rest = match after[..host].rfind('@') {
            Some(sign) => {
                kept.push_str(GONE);
                &after[sign..]
            }
            None => after,
        };
    }
    kept + rest
}

/// The line without JSON web tokens, which begin with the same letters since they begin with `{"`.
fn tokens(line: &str) -> String {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let mut kept = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("eyJ") {
        let end = rest[at..].find(|letter| !is_part(letter)).map_or(rest.len(), |end| at + end);
        let is_token = rest[at..end].matches('.').count() == 2;
        kept.push_str(&rest[..at]);
        kept.push_str(if is_token { GONE } else { &rest[at..end] });
        rest = &rest[end..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_taken_out() {
        for (before, after) in [
            ("password=hunter2 peer=tor\n", "password=REDACTED peer=tor\n"),
            ("{\"bgpPassword\": \"hunter2\", \"a\": 1}", "{\"bgpPassword\": \"REDACTED\", \"a\": 1}"),
            ("{\\\"token\\\":\\\"abc\\\",\\\"x\\\":1}", "{\\\"token\\\":\\\"REDACTED\\\",\\\"x\\\":1}"),
            ("Authorization: Bearer abc.def\n", "Authorization: REDACTED\n"),
            ("said bearer abc\n", "said bearer REDACTED\n"),
            ("  client-secret: 'a b'\n", "  client-secret: 'REDACTED'\n"),
            ("https://me:hunter2@host/x http://host\n", "https://REDACTED@host/x http://host\n"),
            ("got eyJhbGciOi.eyJpc3M.c2ln!\n", "got REDACTED!\n"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nnext\n",
                "REDACTED\nnext\n",
            ),
        ] {
            assert_eq!(redact(before), after);
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        for text in [
            "passwordSecretRef:\n  name: tor\n  key: password\n",
            "\"passwordSecretRef\": {\"name\": \"tor\", \"key\": \"password\"}",
            "the password differs from the router's\n",
            "secret: {}\n",
            "eyJ is no token, nor is http://host:80/a@b\n",
        ] {
            assert_eq!(redact(text), text);
        }
    }
}
