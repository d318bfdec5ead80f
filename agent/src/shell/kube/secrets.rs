//! Follows the Secrets that our peers name, each by itself, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, SelectAll};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::Config;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::follow::{Change, follow};
use crate::node::intent::Intent;
use crate::node::secret::{self, SecretName, Secrets};

/// What happened to a Secret; `None`: it is gone.
type News = (SecretName, Option<Secret>);

/// Follows what the intent names for as long as the process lives, beginning with what a copy had.
pub async fn run(
    client: Client,
    mut intent: watch::Receiver<Option<Arc<Intent>>>,
    secrets: watch::Sender<Secrets>,
) {
    let mut followed: BTreeMap<SecretName, CancellationToken> = BTreeMap::new();
    let mut news: SelectAll<BoxStream<'static, News>> = SelectAll::new();
    loop {
        tokio::select! {
            Ok(()) = intent.changed() => {
                let wanted = intent.borrow_and_update().as_ref().map(|intent| intent.secrets.clone());
                let (begin, end) = difference(&followed, &wanted.unwrap_or_default());
                for name in end {
                    if let Some(token) = followed.remove(&name) {
                        token.cancel();
                    }
                    forget(&secrets, &name);
                }
                for name in begin {
                    let token = CancellationToken::new();
                    news.push(stream(&client, name.clone(), token.clone()));
                    followed.insert(name, token);
                }
            }
            Some((name, secret)) = news.next(), if !news.is_empty() => match secret {
                // What a watch still had to say when it ended is no longer asked for.
                _ if !followed.contains_key(&name) => {}
                Some(secret) => take_in(&secrets, name, secret),
                None => forget(&secrets, &name),
            },
        }
    }
}

/// Which Secrets are to be followed now, and which no longer.
fn difference(
    followed: &BTreeMap<SecretName, CancellationToken>,
    wanted: &BTreeSet<SecretName>,
) -> (Vec<SecretName>, Vec<SecretName>) {
    let begin = wanted.iter().filter(|name| !followed.contains_key(*name)).cloned().collect();
    let end = followed.keys().filter(|name| !wanted.contains(*name)).cloned().collect();
    (begin, end)
}

fn stream(client: &Client, name: SecretName, until: CancellationToken) -> BoxStream<'static, News> {
    let api = Api::<Secret>::namespaced(client.clone(), &name.namespace);
    let config = Config::default().fields(&format!("metadata.name={}", name.name));
    let news = follow(api, config).filter_map(move |change| {
        let secret = match change {
            Change::All(all) => all.into_values().next(),
            Change::Applied(secret) => Some(secret),
            Change::Deleted(_) => None,
        };
        ready(Some((name.clone(), secret)))
    });
    news.take_until(until.cancelled_owned()).boxed()
}

fn take_in(secrets: &watch::Sender<Secrets>, name: SecretName, secret: Secret) {
    let keys = secret::read(secret);
    secrets.send_if_modified(|known| {
        let news = known.get(&name) != Some(&keys);
        if news {
            Arc::make_mut(known).insert(name, keys);
        }
        news
    });
}

fn forget(secrets: &watch::Sender<Secrets>, name: &SecretName) {
    secrets.send_if_modified(|known| known.contains_key(name) && Arc::make_mut(known).remove(name).is_some());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::secret::Key;

    fn name(name: &str) -> SecretName {
        SecretName { namespace: "manx-system".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn only_secrets_that_are_named_are_followed() {
        let followed =
            BTreeMap::from([("old", CancellationToken::new()), ("same", CancellationToken::new())]);
        let followed = followed.into_iter().map(|(text, token)| (name(text), token)).collect();
        let wanted = BTreeSet::from([name("same"), name("new")]);
        assert_eq!(difference(&followed, &wanted), (vec![name("new")], vec![name("old")]));
    }

    #[test]
    fn a_secret_that_says_the_same_again_is_no_news_and_one_that_is_gone_is() {
        let (sender, mut receiver) = watch::channel(Secrets::default());
        let secret = || Secret {
            string_data: Some(BTreeMap::from([("password".to_owned(), "s3cret".to_owned())])),
            ..Secret::default()
        };
        take_in(&sender, name("tor"), secret());
        assert_eq!(receiver.borrow_and_update()[&name("tor")]["password"], Key::new(b"s3cret".to_vec()));
        take_in(&sender, name("tor"), secret());
        assert!(!receiver.has_changed().expect("the sender lives"));
        forget(&sender, &name("tor"));
        assert!(receiver.borrow_and_update().is_empty());
    }
}
