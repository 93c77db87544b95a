//! Messages that were written here, read back: which of a file are whole, and what flow records they hold.
//!
//! Bytes may be anything: what is no message of ours ends the reading.

use hashbrown::HashMap;

use super::fields::from_ntp;
use super::message::{HEADER_LEN, OPTIONS_TEMPLATE_SET, SET_HEADER_LEN, TEMPLATE_SET, VERSION};
use super::template;
use crate::flow::columns::VARIABLE;

/// Number of flowStartNanoseconds.
const FLOW_START: u16 = 156;
/// Number of flowEndNanoseconds.
const FLOW_END: u16 = 157;
/// The bit of an element's number that says that an enterprise follows.
const ENTERPRISE_BIT: u16 = 0x8000;

/// An element of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its enterprise, where it has one.
    pub enterprise: Option<u32>,
    /// Its number.
    pub number: u16,
    len: u16,
}

/// Reads messages one after the other.
#[derive(Debug, Default)]
pub struct Reader {
    templates: HashMap<u16, Vec<Field>, foldhash::fast::RandomState>,
}

/// What is not a message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOurs;

/// The length that the header of a message gives, header included; `None` where it is no header of a message.
pub fn message_len(header: &[u8; HEADER_LEN]) -> Option<usize> {
    let [v0, v1, l0, l1, ..] = *header;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    (u16::from_be_bytes([v0, v1]) == VERSION && len > HEADER_LEN).then_some(len)
}

impl Reader {
    /// Reads a whole message and hands the fields of each flow record in it to `found`, in their order.
    ///
    /// # Errors
    ///
    /// [`NotOurs`]; what was found before it has been handed over.
    pub fn message<'a>(
        &mut self,
        message: &'a [u8],
        mut found: impl FnMut(&[(Field, &'a [u8])]),
    ) -> Result<(), NotOurs> {
        let (_, mut sets) = message.split_at_checked(HEADER_LEN).ok_or(NotOurs)?;
        while !sets.is_empty() {
            let set = take_u16(&mut sets)?;
            let len = usize::from(take_u16(&mut sets)?);
            let content = len.checked_sub(SET_HEADER_LEN).ok_or(NotOurs)?;
            let content = take(&mut sets, content)?;
            match set {
                TEMPLATE_SET => self.templates(content)?,
                OPTIONS_TEMPLATE_SET => {}
                set if set >= template::FIRST => self.records(set, content, &mut found)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn templates(&mut self, mut content: &[u8]) -> Result<(), NotOurs> {
        while !content.is_empty() {
            let id = take_u16(&mut content)?;
            let count = take_u16(&mut content)?;
            let fields = (0..count)
                .map(|_| take_field(&mut content))
                .collect::<Result<Vec<_>, _>>()?;
            let least: usize = fields.iter().map(Field::least).sum();
            if least == 0 {
                return Err(NotOurs);
            }
            self.templates.insert(id, fields);
        }
        Ok(())
    }

    fn records<'a>(
        &self,
        set: u16,
        mut content: &'a [u8],
        found: &mut impl FnMut(&[(Field, &'a [u8])]),
    ) -> Result<(), NotOurs> {
        let fields = self.templates.get(&set).ok_or(NotOurs)?;
        let least: usize = fields.iter().map(Field::least).sum();
        // What is shorter is padding.
        while content.len() >= least {
            let mut value = |field: &Field| Ok((*field, take_value(&mut content, field.len)?));
            let values = fields
                .iter()
                .map(&mut value)
                .collect::<Result<Vec<_>, _>>()?;
            found(&values);
        }
        Ok(())
    }
}

impl Field {
    /// Fewest bytes of a value.
    fn least(&self) -> usize {
        match self.len {
            VARIABLE => 1,
            len => len.into(),
        }
    }
}

/// Time of the first and the last packet of a record, nanoseconds since 1970.
pub fn span(record: &[(Field, &[u8])]) -> Option<(u64, u64)> {
    let time = |wanted: u16| {
        let is_it = |field: &Field| field.enterprise.is_none() && field.number == wanted;
        let (_, value) = record.iter().find(|(field, _)| is_it(field))?;
        Some(from_ntp((*value).try_into().ok()?))
    };
    Some((time(FLOW_START)?, time(FLOW_END)?))
}

fn take<'a>(from: &mut &'a [u8], len: usize) -> Result<&'a [u8], NotOurs> {
    let (taken, rest) = from.split_at_checked(len).ok_or(NotOurs)?;
    *from = rest;
    Ok(taken)
}

fn take_u16(from: &mut &[u8]) -> Result<u16, NotOurs> {
    let bytes = take(from, 2)?;
    Ok(u16::from_be_bytes(bytes.try_into().map_err(|_| NotOurs)?))
}

fn take_field(from: &mut &[u8]) -> Result<Field, NotOurs> {
    let number = take_u16(from)?;
    let len = take_u16(from)?;
    let enterprise = match number & ENTERPRISE_BIT {
        0 => None,
        _ => Some(take(from, 4)?),
    };
    let enterprise = enterprise.map(|bytes| bytes.try_into().map(u32::from_be_bytes));
    Ok(Field {
        enterprise: enterprise.transpose().map_err(|_| NotOurs)?,
        number: number & !ENTERPRISE_BIT,
        len,
    })
}

fn take_value<'a>(from: &mut &'a [u8], len: u16) -> Result<&'a [u8], NotOurs> {
    if len != VARIABLE {
        return take(from, len.into());
    }
    let short = take(from, 1)?.first().copied().unwrap_or_default();
    let len = match short {
        u8::MAX => take_u16(from)?,
        short => short.into(),
    };
    take(from, len.into())
}
