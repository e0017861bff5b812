//! `cat`: one item's bytes.

use crate::exit::{Code, Failure, Outcome};
use crate::{Global, out};
use mailstrata_engine::Error;
use std::io::Write as _;

/// Write one item's bytes to stdout, as they are or as they were.
///
/// Every byte is verified before it is written; the digest of the whole at the end. A deleted item gives its last content.
#[derive(clap::Args)]
pub struct Args {
    /// Address or account id.
    account: String,
    /// Native id, or key of 32 hexadecimal digits.
    item: String,
    /// As of this moment.
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    at: Option<String>,
    /// The blob with this role instead of the content.
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
}

pub fn run(g: &Global, args: &Args) -> Outcome {
    let reader = out::reader(g)?;
    let at = out::resolve_at(reader.view(), args.at.as_deref())?;
    let t = super::show::find(&at, &args.account, &args.item)?;
    let role = args.role.as_ref().map(|r| mailstrata_mailstore::json::percent_decode(r));
    let blob = t.blobs.iter().find(|b| b.role == role).ok_or_else(|| {
        let why = if role.is_some() {
            "the item has no blob with this role; `show` lists them"
        } else if t.content_unseen {
            "the item's content could not be read when it was there"
        } else {
            "the item has no content"
        };
        Failure::new(Code::NothingMatched, why)
    })?;
    let mut to = out::stdout();
    let written =
        at.view.read_blob(&blob.digest, &mut |bytes| to.write_all(bytes).map_err(Error::io("writing", "stdout")));
    to.flush()?;
    match written {
        Ok(_) => Ok(Code::Done),
        Err(e @ Error::Damage(_)) => Err(Failure::new(Code::Damage, format!("the content is damaged: {e}"))
            .hint("what was written so far is not the whole message")),
        Err(e) => Err(e.into()),
    }
}
