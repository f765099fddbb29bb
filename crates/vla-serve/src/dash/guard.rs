//! Who gets the page, and whose requests reach the node.
//!
//! A browser runs pages of any site, and all of them can reach loopback. None of them may move an
//! arm:
//!
//! * **`Host`** must be an address, `localhost` or a name that was given: a site that resolves its
//!   own name to this machine (DNS rebinding) has its name there.
//! * **`Origin`** and **`Sec-Fetch-Site`**, where a browser sends them, must be the page's own.
//! * **`X-Dash`** must be there with every POST: a page elsewhere can add it to a request only
//!   after a preflight request, which is refused.
//! * The page cannot be shown inside another one (clickjacking).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::Shared;
use crate::ApiKey;
use crate::error::{Outcome, RequestError};
use crate::guard::refusal;

/// Everything of the page comes from here, and nothing may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' \
    blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const MARK: &str = "x-dash";
/// Bytes of a header with a key.
const AUTHORIZATION_MOST: usize = 1024;

pub(super) async fn admit(
    State(shared): State<Arc<Shared>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = check(&shared, &request);
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(error) => {
            let mut response = refusal(&error);
            if error.outcome == Outcome::Unauthorized {
                // Any user name; the browser then sends the key with everything of the page.
                let challenge = HeaderValue::from_static("Basic realm=\"openvla dash\"");
                response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            }
            response
        }
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(shared: &Shared, request: &Request) -> Result<(), RequestError> {
    let headers = request.headers();
    let host = host(headers, &shared.server.hosts)?;
    if let Some(other) = request.uri().host()
        && !is_accepted(other, &shared.server.hosts)
    {
        return Err(forbidden("the request is for another host"));
    }
    same_site(headers, host)?;
    if let Some(key) = &shared.server.api_key
        && !has(headers, key)
    {
        return Err(RequestError::new(
            Outcome::Unauthorized,
            "no or another API key; give it as the password, with any user name, or as the header \
            'Authorization: Api-Key KEY'",
        ));
    }
    if request.method() == Method::POST && !headers.contains_key(MARK) {
        return Err(forbidden("requests to the node need the header 'X-Dash: 1'"));
    }
    Ok(())
}

fn forbidden(line: impl Into<String>) -> RequestError {
    RequestError::new(Outcome::Forbidden, line)
}

/// The only `Host`, if it is acceptable.
fn host<'a>(headers: &'a HeaderMap, names: &[String]) -> Result<&'a str, RequestError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(forbidden("the request has no or several headers Host"));
    };
    let host = host.to_str().map_err(|_| forbidden("the header Host is not ASCII"))?;
    // `NAME:PORT`, `[V6]:PORT`, or without the port.
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    if is_accepted(name, names) {
        return Ok(host);
    }
    let shown: String = name.chars().take(80).collect();
    Err(forbidden(format!(
        "the name {shown:?} is not known to be this machine's; use its address, or start with \
        --host {shown}"
    )))
}

fn is_accepted(name: &str, names: &[String]) -> bool {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|accepted| accepted.eq_ignore_ascii_case(name))
}

fn same_site(headers: &HeaderMap, host: &str) -> Result<(), RequestError> {
    for origin in headers.get_all(ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let own = ["http://", "https://"].iter().any(|scheme| {
            origin.strip_prefix(scheme).is_some_and(|o| o.eq_ignore_ascii_case(host))
        });
        if !own {
            return Err(forbidden("requests of other web pages are not answered"));
        }
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(forbidden(
            "requests of other web pages are not answered; type the address of this page",
        )),
    }
}

/// Whether the request has the key, as `serve`'s clients send it or as a browser does.
fn has(headers: &HeaderMap, key: &ApiKey) -> bool {
    let Some(given) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    if AUTHORIZATION_MOST < given.len() {
        return false;
    }
    if let Some(given) = given.strip_prefix(b"Api-Key ") {
        return key.is(given);
    }
    let basic = given.strip_prefix(b"Basic ").and_then(|text| BASE64_STANDARD.decode(text).ok());
    basic.is_some_and(|pair| {
        let colon = pair.iter().position(|byte| *byte == b':');
        colon.is_some_and(|colon| key.is(&pair[colon + 1..]))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn names_of_others_are_no_host() {
        let names = ["robot.local".to_owned()];
        for (given, accepted) in [
            ("127.0.0.1:8010", true),
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("[::1]:8010", true),
            ("192.168.1.7:8010", true),
            ("robot.local:8010", true),
            ("robot.local.evil.example:8010", false),
            ("evil.example", false),
            ("127.0.0.1.evil.example:8010", false),
            ("localhost.evil.example", false),
            ("", false),
            (":8010", false),
        ] {
            let headers = headers(&[("host", given)]);
            assert_eq!(host(&headers, &names).is_ok(), accepted, "{given}");
        }
        assert!(host(&headers(&[]), &names).is_err());
        assert!(host(&headers(&[("host", "localhost"), ("host", "localhost")]), &names).is_err());
    }

    #[test]
    fn other_pages_are_refused() {
        let of = |lines: &[(&'static str, &str)]| same_site(&headers(lines), "127.0.0.1:8010");
        assert!(of(&[]).is_ok(), "no browser");
        assert!(of(&[("origin", "http://127.0.0.1:8010")]).is_ok());
        assert!(of(&[("sec-fetch-site", "same-origin")]).is_ok());
        assert!(of(&[("sec-fetch-site", "none")]).is_ok(), "typed");
        for origin in [
            "http://evil.example",
            "null",
            "http://127.0.0.1:8011",
            "http://localhost:8010",
            "http://127.0.0.1:8010.evil.example",
            "",
        ] {
            assert!(of(&[("origin", origin)]).is_err(), "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert!(of(&[("sec-fetch-site", site)]).is_err(), "{site}");
        }
    }

    #[test]
    fn a_key_comes_in_two_forms() {
        let key = ApiKey::new("0123456789abcdef").unwrap();
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for (given, accepted) in [
            ("Api-Key 0123456789abcdef".to_owned(), true),
            (basic("me:0123456789abcdef"), true),
            (basic(":0123456789abcdef"), true),
            (basic("0123456789abcdef"), false),
            (basic("me:0123456789abcdeF"), false),
            (basic("me:"), false),
            ("Basic !".to_owned(), false),
            ("Bearer 0123456789abcdef".to_owned(), false),
        ] {
            assert_eq!(has(&headers(&[("authorization", &given)]), &key), accepted, "{given}");
        }
        assert!(!has(&headers(&[]), &key));
    }
}
