//! The frame of every page: language, navigation, the signed-in user, the CSRF token of its forms.

use super::{
    context::RequestContext,
    language::Language,
    session::{User, form_token},
    translations::Translations,
};

/// A page's frame.
#[derive(Debug)]
pub struct Frame {
    /// The page's language.
    pub language: Language,
    /// Its strings.
    pub t: &'static Translations,
    /// What every form of it carries.
    pub csrf: String,
    /// Where it is.
    pub path: String,
    /// A signed-in user.
    pub person: Option<Person>,
    /// Whether it updates live.
    pub live: bool,
}

/// The signed-in user, as the frame shows it.
#[derive(Debug)]
pub struct Person {
    /// The TP-Link ID.
    pub id: String,
    engineer: bool,
}

impl RequestContext {
    /// The frame of a page for them.
    pub fn frame(&self) -> Frame {
        let person = self.user.as_ref().map(|user| Person { id: user.login().to_owned(), engineer: *user == User::Engineer });
        let (language, csrf) = (self.language, form_token(&self.secret));
        Frame { language, t: language.translations(), csrf, path: self.path.clone(), live: person.is_some(), person }
    }
}

impl Frame {
    /// The languages there are.
    pub fn languages(&self) -> [Language; 2] {
        Language::ALL
    }

    /// The pages there are for this person: path and name.
    pub fn pages(&self) -> Vec<(&'static str, &'static str)> {
        match &self.person {
            Some(Person { engineer: true, .. }) => vec![("/engineers", self.t.engineers.as_str())],
            Some(_) => vec![("/", self.t.cameras.as_str()), ("/orders", &self.t.orders), ("/support", &self.t.support)],
            None => vec![],
        }
    }
}
