//! Rules on shape: names and documentation of modules, the length of functions and files.

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::Source;

const FUNCTION_LIMIT: usize = 80;
const FILE_LIMIT: usize = 600;
/// Nine functions of ten stay within this.
const FUNCTION_GOAL: usize = 30;

/// Names that say nothing of what a module knows.
const EMPTY_NAMES: [&str; 7] = ["util", "utils", "helper", "helpers", "manager", "common", "misc"];

/// A function outside tests.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    path: String,
    line: usize,
    name: String,
    lines: usize,
}

/// What was seen of one file.
#[derive(Default)]
pub(crate) struct Shape {
    /// What is wrong.
    pub(crate) findings: Vec<Finding>,
    /// Its functions, without those of tests.
    pub(crate) functions: Vec<Function>,
}

/// Checks one file.
pub(crate) fn check(source: &Source<'_>) -> Shape {
    let mut shape = Shape::default();
    let mut names = source.path.split(['/', '.']);
    if let Some(name) = names.find(|name| EMPTY_NAMES.contains(name)) {
        let what = format!("{name} says nothing: name the module after what it knows");
        shape.findings.push(Finding::new(source.path, 1, what));
    }
    if !source.file.attrs.iter().any(is_inner_doc) {
        shape.findings.push(Finding::new(
            source.path,
            1,
            "no module documentation: begin with //! what this file is",
        ));
    }
    if source.is_test() {
        return shape;
    }
    let mut visitor = Visitor { path: source.path, functions: Vec::new(), test_lines: 0 };
    visitor.visit_file(&source.file);
    let lines = source.text.lines().count().saturating_sub(visitor.test_lines);
    if lines > FILE_LIMIT {
        let what = format!(
            "{lines} lines without tests, limit {FILE_LIMIT}: split the module by what its parts know"
        );
        shape.findings.push(Finding::new(source.path, 1, what));
    }
    for function in &visitor.functions {
        if function.lines > FUNCTION_LIMIT {
            let Function { name, lines, .. } = function;
            let what = format!("{name} has {lines} lines, limit {FUNCTION_LIMIT}: give its steps names");
            shape.findings.push(Finding::new(source.path, function.line, what));
        }
    }
    shape.functions = visitor.functions;
    shape
}

/// Nine functions of ten must stay within the goal; the longest are named when they do not.
pub(crate) fn share_of_long_functions(functions: &[Function]) -> Option<Finding> {
    let mut long: Vec<&Function> =
        functions.iter().filter(|function| function.lines > FUNCTION_GOAL).collect();
    if long.len() * 10 <= functions.len() {
        return None;
    }
    long.sort_by_key(|function| std::cmp::Reverse(function.lines));
    let longest: Vec<String> =
        long.iter().take(10).map(|f| format!("{}:{} {} ({})", f.path, f.line, f.name, f.lines)).collect();
    let what = format!(
        "{} of {} functions are longer than {FUNCTION_GOAL} lines, more than one in ten: shorten {}",
        long.len(),
        functions.len(),
        longest.join(", ")
    );
    Some(Finding::new(&long[0].path, long[0].line, what))
}

struct Visitor<'a> {
    path: &'a str,
    functions: Vec<Function>,
    test_lines: usize,
}

impl Visitor<'_> {
    fn record(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.span().start().line;
        let lines = block.brace_token.span.close().end().line + 1 - line;
        self.functions.push(Function {
            path: self.path.to_owned(),
            line,
            name: signature.ident.to_string(),
            lines,
        });
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.attrs.iter().any(is_cfg_test) {
            let span = item.span();
            self.test_lines += span.end().line + 1 - span.start().line;
        } else {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !item.attrs.iter().any(|attribute| is_test(attribute) || is_cfg_test(attribute)) {
            self.record(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.record(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.record(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

fn is_inner_doc(attribute: &syn::Attribute) -> bool {
    matches!(attribute.style, syn::AttrStyle::Inner(_)) && attribute.path().is_ident("doc")
}

fn is_test(attribute: &syn::Attribute) -> bool {
    attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
}

/// Whether this is `cfg(test)` or `cfg(all(test, …))`.
fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let condition = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (condition == "test" || condition.starts_with("all(test,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(path: &str, text: &str) -> Vec<String> {
        let source = Source::parse(path, text).expect("it parses");
        check(&source).findings.into_iter().map(|finding| finding.to_string()).collect()
    }

    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_without_module_documentation_is_found() {
        assert_eq!(whats("a/src/b.rs", "/// Outer.\nfn f() {}\n").len(), 1);
        assert!(whats("a/src/b.rs", "//! Inner.\n").is_empty());
    }

    #[test]
    fn a_module_that_could_hold_anything_is_found() {
        assert_eq!(whats("a/src/util.rs", "//! D.\n").len(), 1);
        assert_eq!(whats("a/tests/common/mod.rs", "//! D.\n").len(), 1);
        assert!(whats("a/src/utility_bill.rs", "//! D.\n").is_empty());
    }

    #[test]
    fn a_function_of_81_lines_is_found_and_one_of_80_is_not() {
        let text = format!("//! D.\n{}{}", function("fits", 80), function("too_long", 81));
        assert_eq!(
            whats("a/src/b.rs", &text),
            ["a/src/b.rs:82: too_long has 81 lines, limit 80: give its steps names"]
        );
    }

    #[test]
    fn methods_and_defaults_of_traits_are_functions_too() {
        let long = function("f", 81);
        let text = format!("//! D.\nstruct S;\nimpl S {{ {long} }}\ntrait T {{ {long} }}\n");
        assert_eq!(whats("a/src/b.rs", &text).len(), 2);
    }

    #[test]
    fn tests_may_be_long() {
        let long = function("f", 200);
        assert!(whats("a/tests/b.rs", &format!("//! D.\n{long}")).is_empty());
        assert!(whats("a/src/b.rs", &format!("//! D.\n#[cfg(test)]\nmod tests {{ {long} }}\n")).is_empty());
        assert!(whats("a/src/b.rs", &format!("//! D.\n#[test]\n{long}")).is_empty());
    }

    #[test]
    fn a_file_of_601_lines_is_found_and_its_tests_do_not_count() {
        let many = "fn f() {}\n".repeat(600);
        assert_eq!(whats("a/src/b.rs", &format!("//! D.\n{many}")).len(), 1);
        let few = "fn f() {}\n".repeat(500);
        assert!(
            whats("a/src/b.rs", &format!("//! D.\n{few}#[cfg(test)]\nmod tests {{\n{few}}}\n")).is_empty()
        );
    }

    #[test]
    fn more_than_one_long_function_in_ten_is_found() {
        let shape = |text: &str| check(&Source::parse("a/src/b.rs", text).expect("it parses")).functions;
        let short = function("short", 5).repeat(9);
        assert!(share_of_long_functions(&shape(&format!("{short}{}", function("long", 31)))).is_none());
        let finding = share_of_long_functions(&shape(&format!("{short}{}", function("long", 31).repeat(2))));
        assert!(finding.is_some_and(|finding| finding.what.starts_with("2 of 11 functions")));
    }
}
