//! The few fields of certificates and CRLs that rustls does not show: names and dates.
//!
//! A reader of DER (X.690) that follows definite lengths only and answers `None` to anything
//! else. It judges nothing: signatures, purposes and constraints are webpki's. Pure.

use crate::runtime::clock::Unix;
use time::{Date, Month, PrimitiveDateTime, Time};

/// Names and validity of a certificate (RFC 5280 §4.1).
#[derive(Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// Content of the issuer's Name.
    pub issuer: &'a [u8],
    /// Content of the subject's Name.
    pub subject: &'a [u8],
    /// Valid from.
    pub not_before: Unix,
    /// Valid until, inclusive.
    pub not_after: Unix,
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const EXPLICIT_VERSION: u8 = 0xa0;

/// Reads the fields of a certificate.
#[must_use]
pub fn certificate(der: &[u8]) -> Option<Certificate<'_>> {
    let mut outer = Reader(Reader(der).expect(SEQUENCE)?);
    let mut body = Reader(outer.expect(SEQUENCE)?);
    if body.peek() == Some(EXPLICIT_VERSION) {
        body.next()?;
    }
    body.expect(INTEGER)?; // serial number
    body.expect(SEQUENCE)?; // signature algorithm
    let issuer = body.expect(SEQUENCE)?;
    let mut validity = Reader(body.expect(SEQUENCE)?);
    let not_before = validity.time()?;
    let not_after = validity.time()?;
    let subject = body.expect(SEQUENCE)?;
    Some(Certificate {
        issuer,
        subject,
        not_before,
        not_after,
    })
}

/// A certificate or a list with the signature over it (RFC 5280 §4.1.1, §5.1.1).
#[derive(Debug, PartialEq, Eq)]
pub struct Signed<'a> {
    /// What was signed, whole.
    pub body: &'a [u8],
    /// Content of the algorithm's identifier.
    pub algorithm: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
}

/// Takes a certificate or a list apart; `None` also when it names two algorithms, or has bytes
/// after its end.
#[must_use]
pub fn signed(der: &[u8]) -> Option<Signed<'_>> {
    let mut whole = Reader(der);
    let outer = whole.expect(SEQUENCE)?;
    let mut parts = Reader(outer);
    let mut body = Reader(parts.expect(SEQUENCE)?);
    let length = outer.len() - parts.0.len();
    let algorithm = parts.expect(SEQUENCE)?;
    let (0, signature) = parts
        .expect(BIT_STRING)?
        .split_first()
        .map(|(a, b)| (*a, b))?
    else {
        return None;
    };
    // Version and serial number come first, where there are any.
    while matches!(body.peek(), Some(EXPLICIT_VERSION | INTEGER)) {
        body.next()?;
    }
    let ends = whole.0.is_empty() && parts.0.is_empty();
    (ends && body.expect(SEQUENCE)? == algorithm).then_some(())?;
    Some(Signed {
        body: outer.get(..length)?,
        algorithm,
        signature,
    })
}

/// When a CRL is due to be replaced (RFC 5280 §5.1.2.5); `Some(None)` when it does not say.
#[must_use]
pub fn crl_next_update(der: &[u8]) -> Option<Option<Unix>> {
    let mut outer = Reader(Reader(der).expect(SEQUENCE)?);
    let mut body = Reader(outer.expect(SEQUENCE)?);
    if body.peek() == Some(INTEGER) {
        body.next()?;
    }
    body.expect(SEQUENCE)?; // signature algorithm
    body.expect(SEQUENCE)?; // issuer
    body.time()?; // this update
    match body.peek() {
        Some(UTC_TIME | GENERALIZED_TIME) => Some(Some(body.time()?)),
        _ => Some(None),
    }
}

/// Content of the name of a CRL's issuer.
#[must_use]
pub fn issuer_of_crl(der: &[u8]) -> Option<&[u8]> {
    let mut outer = Reader(Reader(der).expect(SEQUENCE)?);
    let mut body = Reader(outer.expect(SEQUENCE)?);
    if body.peek() == Some(INTEGER) {
        body.next()?;
    }
    body.expect(SEQUENCE)?; // signature algorithm
    body.expect(SEQUENCE)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], mut rest) = self.0.split_first_chunk::<2>()?;
        let mut length = usize::from(first);
        if first >= 0x80 {
            let count = usize::from(first & 0x7f);
            if !(1..=4).contains(&count) {
                return None;
            }
            let (bytes, after) = rest.split_at_checked(count)?;
            length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }

    fn expect(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next()
            .filter(|(tag, _)| *tag == wanted)
            .map(|(_, content)| content)
    }

    fn time(&mut self) -> Option<Unix> {
        let (tag, text) = self.next()?;
        let (year, rest) = match tag {
            // RFC 5280 §4.1.2.5.1: two digits, 50 and later are of the twentieth century.
            UTC_TIME => {
                let (year, rest) = text.split_at_checked(2)?;
                let year = number(year)?;
                (if year >= 50 { 1900 + year } else { 2000 + year }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = text.split_at_checked(4)?;
                (number(year)?, rest)
            }
            _ => return None,
        };
        let (digits, b"Z") = rest.split_at_checked(10)? else {
            return None;
        };
        let part = |at: usize| digits.get(at..at + 2).and_then(number);
        let small = |at: usize| part(at).and_then(|n| u8::try_from(n).ok());
        let month = Month::try_from(small(0)?).ok()?;
        let date = Date::from_calendar_date(i32::try_from(year).ok()?, month, small(2)?).ok()?;
        let time = Time::from_hms(small(4)?, small(6)?, small(8)?).ok()?;
        let stamp = PrimitiveDateTime::new(date, time)
            .assume_utc()
            .unix_timestamp();
        Some(Unix::from_secs(u64::try_from(stamp).unwrap_or(0)))
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    let mut sum = 0_u32;
    for digit in digits {
        sum = sum * 10 + char::from(*digit).to_digit(10)?;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::{certificate, crl_next_update, signed};
    use crate::runtime::clock::Unix;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    fn sample(until: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "dev-1");
        params.not_before = date_time_ymd(1999, 12, 31);
        params.not_after = date_time_ymd(until, 1, 2);
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .to_vec()
    }

    #[test]
    fn dates_before_and_after_2050_are_read() {
        let der = sample(2030);
        let read = certificate(&der).unwrap();
        assert_eq!(read.not_before, Unix::from_secs(946_598_400));
        assert_eq!(read.not_after, Unix::from_secs(1_893_542_400));
        assert_eq!(read.issuer, read.subject);
        let der = sample(2060);
        assert_eq!(
            certificate(&der).unwrap().not_after,
            Unix::from_secs(2_840_227_200)
        );
    }

    #[test]
    fn a_cut_certificate_is_no_certificate() {
        let der = sample(2030);
        assert!(signed(&der).is_some_and(|parts| parts.body[0] == 0x30));
        assert_eq!(signed(&[&der[..], &[0]].concat()), None);
        for end in 0..der.len() {
            assert_eq!(certificate(&der[..end]), None);
            assert_eq!(signed(&der[..end]), None);
        }
    }

    proptest! {
        #[test]
        fn mutations_never_panic(at in 0_usize..300, byte in any::<u8>()) {
            let mut der = sample(2030);
            let at = at % der.len();
            der[at] = byte;
            let _ = certificate(&der);
            let _ = crl_next_update(&der);
            let _ = signed(&der);
        }
    }
}
