use std::collections::BTreeSet;
use std::path::Path;

use models::Tokenizer;

use super::facts::Relation;
use super::files::{json_lines, write_model_files};
use super::scenes::{Sum, is_untold_pair};
use super::*;
use crate::data::rows::{example, from_lines};

fn split_sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split(['.', '?', '!', '\n', ';'])
}

/// Whether a sentence has a word, whatever its letters' size.
fn has(sentence: &str, word: &str) -> bool {
    sentence.split(|letter: char| !letter.is_alphabetic()).any(|found| found.eq_ignore_ascii_case(word))
}

fn everything(world: &World) -> String {
    let texts = Edition::ALL.map(|edition| world.text(edition, Split::Training, 4000));
    texts.concat()
}

fn tokenizer() -> (tempfile::TempDir, Tokenizer) {
    let directory = tempfile::tempdir().unwrap();
    write_model_files(directory.path(), BaseShape::SMALL).unwrap();
    let tokenizer = Tokenizer::read(directory.path()).unwrap();
    (directory, tokenizer)
}

#[test]
fn the_seed_decides_everything() {
    let (world, again, other) = (World::new(1), World::new(1), World::new(2));
    for edition in Edition::ALL {
        let text = world.text(edition, Split::Training, 300);
        assert_eq!(text, again.text(edition, Split::Training, 300));
        assert!(world.text(edition, Split::Training, 600).starts_with(&text));
        assert_ne!(text, other.text(edition, Split::Training, 300));
        assert_ne!(text, world.text(edition, Split::Validation, 300));
        let sentences = split_sentences(&text).filter(|sentence| !sentence.trim().is_empty()).count();
        assert!(sentences >= 300, "{sentences}");
    }
    for task in Task::ALL {
        let rows = world.rows(task, Split::Training, 50);
        assert_eq!(rows, again.rows(task, Split::Training, 50));
        assert_eq!(rows[..], world.rows(task, Split::Training, 80)[..50]);
        assert_ne!(rows, other.rows(task, Split::Training, 50));
    }
}

#[test]
fn the_vocabulary_has_every_word() {
    let (_directory, tokenizer) = tokenizer();
    let world = World::new(3);
    let rows = Task::ALL.map(|task| json_lines(&world.rows(task, Split::Test, 200)));
    for text in [everything(&world), rows.concat().replace("\\\"", "\"").replace("\"prompt\":", "")] {
        for line in text.lines() {
            let line = line.replace("\"completion\":", "").replace(['{', '}'], "");
            assert!(!tokenizer.encode(&line, false).unwrap().contains(&0), "{line}");
        }
    }
    let text = everything(&world);
    assert!(!text.contains(['{', '}']));
    let used: BTreeSet<u32> = tokenizer.encode(&text, false).unwrap().into_iter().collect();
    assert!(used.len() * 100 > tokenizer.vocab_size() * 99, "{} of {}", used.len(), tokenizer.vocab_size());
    assert_eq!(tokenizer.encode("The hen's\nred \"cup\".", true).unwrap().len(), 10);
    assert_eq!(tokenizer.bos(), tokenizer.token_id("\n"));
}

#[test]
fn what_is_untold_is_in_no_text() {
    let world = World::new(4);
    let text = everything(&world);
    let facts = world.facts(Edition::Base);
    let mut untold = 0;
    for person in facts.people() {
        // The new version may say otherwise of those whose facts changed.
        for relation in Relation::ALL.into_iter().filter(|&relation| facts.is_untold(person, relation)) {
            let value = facts.value(person, relation);
            let told = split_sentences(&text).find(|sentence| has(sentence, person.name) && has(sentence, value));
            assert_eq!(told, None, "{} {relation:?}", person.name);
            untold += 1;
        }
    }
    assert!((5..25).contains(&untold), "{untold}");
    for (a, b) in (1..10).flat_map(|a| (1..10).map(move |b| (a, b))) {
        if Sum::of(a, b).is_untold(4) {
            let [a, b, c] = [a, b, a + b].map(|number| lexicon::NUMBERS[number]);
            let is_told = |sentence: &str| [a, b, c].iter().all(|number| has(sentence, number));
            // A bare sum with other numbers of three has them in another order or is another sum.
            for kind in [phrases::SUMS, phrases::DIFFERENCES].concat() {
                let sentence = phrases::fill(kind, &[("a", a), ("b", b), ("c", c)]);
                assert!(is_told(&sentence) && !text.contains(&sentence), "{sentence}");
            }
            let sentences: Vec<&str> = split_sentences(&text).collect();
            let story = |pair: &[&str]| has(pair[0], a) && pair[1].contains("brings") && has(pair[1], b);
            assert!(!sentences.windows(2).any(story), "{a} {b}");
        }
    }
    for aspect in lexicon::ASPECTS {
        for adjective in lexicon::GOOD.iter().chain(&lexicon::BAD) {
            let is_told = split_sentences(&text).any(|sentence| has(sentence, aspect) && has(sentence, adjective));
            assert!(!(is_told && is_untold_pair(4, aspect, adjective)), "{aspect} {adjective}");
        }
    }
}

#[test]
fn splits_share_nothing_and_rows_can_be_read() {
    let (_directory, tokenizer) = tokenizer();
    let world = World::new(5);
    for task in Task::ALL {
        let [training, validation, test] = Split::ALL.map(|split| world.rows(task, split, 300));
        let prompts = |rows: &[Row]| rows.iter().map(|row| row.prompt.clone()).collect::<BTreeSet<_>>();
        assert_eq!((training.len(), validation.len(), test.len()), (300, 300, 300), "{task:?}");
        assert!(
            prompts(&training).is_disjoint(&prompts(&validation)) && prompts(&test).is_disjoint(&prompts(&training))
        );
        assert!(prompts(&test).is_disjoint(&prompts(&validation)));
        let style = crate::data::task::Task::Causal.style(None);
        let make = |place: &str, row: &serde_json::Value| example(place, row, &tokenizer, style);
        let examples = from_lines(Path::new("rows.jsonl"), &json_lines(&training), make).unwrap();
        let longest = examples.iter().map(|example| example.ids.len()).max().unwrap();
        assert!(longest <= 96, "{task:?}: {longest}");
        for label in task.labels() {
            let count = training.iter().filter(|row| row.completion.trim() == *label).count();
            assert!((75..125).contains(&count), "{label}: {count}");
        }
    }
    for row in world.rows(Task::Classification, Split::Training, 300) {
        for sentence in split_sentences(&row.prompt) {
            let adjectives = lexicon::GOOD.iter().chain(&lexicon::BAD).filter(|adjective| has(sentence, adjective));
            for adjective in adjectives {
                let aspect = lexicon::ASPECTS.iter().find(|aspect| has(sentence, aspect)).unwrap();
                assert!(!is_untold_pair(5, aspect, adjective), "{sentence}");
            }
        }
    }
}

#[test]
fn editions_differ_in_people_and_facts() {
    let world = World::new(6);
    let (base, large) = (world.facts(Edition::Base), world.facts(Edition::Large));
    assert_eq!((base.people().len(), large.people().len()), (16, 22));
    let changed = base.people().iter().zip(large.people()).flat_map(|(old, new)| {
        assert_eq!(old.name, new.name);
        Relation::ALL.into_iter().filter(|&relation| base.value(old, relation) != large.value(new, relation))
    });
    let changed = changed.filter(|relation| !relation.is_derived()).count();
    assert!((4..30).contains(&changed), "{changed} of 112");
    let newcomer = large.people()[18].name;
    assert!(world.text(Edition::Large, Split::Training, 2000).contains(newcomer));
    assert!(!world.text(Edition::Base, Split::Training, 2000).contains(newcomer));
    let share = |edition, word| {
        let text = world.text(edition, Split::Training, 2000);
        split_sentences(&text).filter(|sentence| sentence.contains(word)).count()
    };
    assert!(share(Edition::DomainShift, "barrels") > 20 * share(Edition::Base, "barrels").max(1));
    assert!(share(Edition::Instruction, "Question:") > 300 && share(Edition::Base, "Question:") == 0);
}

#[test]
fn a_base_learns_is_kept_and_can_be_updated() {
    let shape = BaseShape { hidden: 32, intermediate: 64, layers: 1, heads: 2, positions: 64 };
    let recipe = Recipe { shape, steps: 40, batch: 8, sequence: 32, rate: 1e-2 };
    let (device, output) = (tensor::Device::cpu(), crate::output::Output::new(true));
    let caches = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let world = World::new(7);
    let pretraining = |cache: usize| Pretraining {
        world: &world,
        recipe,
        cache: caches[cache].path(),
        device: &device,
        output: &output,
    };
    let [base, again, other] = [0, 0, 1].map(|cache| pretraining(cache).base().unwrap());
    let (before, after) = base.account.losses["base"];
    assert!(before > 6.0 && after < before - 1.0, "{before} -> {after}");
    assert!(!base.is_reused && again.is_reused && !other.is_reused);
    assert_eq!((&base.directory, &base.account), (&again.directory, &again.account));
    let weights = |model: &WorldModel| std::fs::read(model.directory.join("model.safetensors")).unwrap();
    assert!(weights(&base) == weights(&other), "the same seed gives the same bits");

    let update = |size| pretraining(0).update(&base, Edition::DomainShift, size).unwrap();
    let (new, longer) = (update(1.0), update(2.0));
    let (before, after) = new.account.losses["domain-shift"];
    assert!(after < before, "{before} -> {after}");
    assert_eq!((new.account.steps, longer.account.steps), (12, 24));
    assert_ne!(new.directory, longer.directory);
    assert!(weights(&new) != weights(&base));
    assert!(models::ModelUpdate::open(&base.directory, &new.directory).is_ok());
    let names = std::fs::read_dir(caches[0].path()).unwrap().count();
    assert_eq!(names, 3, "the base and two updates, nothing half made");
}
