use super::bundle_path;
use crate::output::{Done, Output, usage};
use gabion_runtime::SecretKey;
use gabion_runtime::signature::{SIGNATURE, keygen, sign};
use serde_json::json;
use std::path::PathBuf;

/// Sign a bundle's manifest, and with it the weights that it names.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion sign runs/small --key author.key")]
pub struct SignArguments {
    /// A run folder, a bundle, or one generation's folder.
    #[arg(value_name = "RUN|BUNDLE")]
    bundle: PathBuf,
    /// A secret key that `gabion keygen` made.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

/// Make a key pair to sign bundles with.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  gabion keygen --out author.key   # and author.key.pub, which is for everybody")]
pub struct KeygenArguments {
    /// The secret key's new file; the public key goes beside it, with `.pub` added.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(arguments: &SignArguments, output: &Output) -> Done {
    let key = SecretKey::read(&arguments.key)?;
    let bundle = bundle_path(&arguments.bundle);
    sign(&bundle, &key)?;
    let (signature, public) = (bundle.join(SIGNATURE), key.public());
    output.result(&json!({ "signature": signature, "key": public.to_string(), "id": public.id() }), || {
        format!("wrote {}, by the key {}", signature.display(), public.id())
    })
}

pub fn make(arguments: &KeygenArguments, output: &Output) -> Done {
    let mut beside = arguments.out.clone().into_os_string();
    beside.push(".pub");
    let beside = PathBuf::from(beside);
    if beside.exists() {
        return Err(usage(format!("{} exists: choose another --out", beside.display())));
    }
    let key = keygen()?;
    key.write(&arguments.out)?;
    let public = key.public();
    gabion_runtime::durable::write(&beside, public.to_text().as_bytes())
        .map_err(|error| anyhow::anyhow!("cannot write {}: {error}", beside.display()))?;
    output.result(
        &json!({ "secret": arguments.out, "public": beside, "key": public.to_string(), "id": public.id() }),
        || {
            format!(
                "wrote {} (keep it to yourself) and {} (give it to whoever verifies)\nkey {}",
                arguments.out.display(),
                beside.display(),
                public
            )
        },
    )
}
