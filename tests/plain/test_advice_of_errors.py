"""Whoever follows the advice of an error, a warning or a note sees it work.

`test_advice_followed.py` holds the same for verdicts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ADVICE: Final = {
    "plugin.active_test.note_made": "test_a_failure_that_was_caught_reaches_the_test_as_advised",
    "plugin.active_test.refusals": "test_accepting_is_refused_where_it_should_not_happen",
    "plugin.outbox.add_late": "test_a_helper_in_a_forked_process_is_called_in_the_test_as_advised",
    "plugin.outputs._append_for_github": "test_the_summary_for_github_is_switched_off_as_advised",
    "plugin.outputs.check_outputs": "test_each_report_has_a_file_of_its_own_as_advised",
    "plugin.policy._refuse_what_breaks_budgets": "test_a_budget_that_must_break_fails_before_the_training",
    "plugin.run.forked": "test_a_helper_in_a_forked_process_is_called_in_the_test_as_advised",
    "plugin.xdist.disturbance": "test_time_gates_run_without_xdist_as_advised",
    "reporting.json.read_report": "test_a_report_is_written_as_advised",
    "reporting.notes._capacity": "test_a_note_is_gone_as_soon_as_its_advice_is_followed",
    "reporting.notes._reach": "test_a_note_is_gone_as_soon_as_its_advice_is_followed",
    "reporting.notes._skipped": "test_a_note_is_gone_as_soon_as_its_advice_is_followed",
    "reporting.notes._steps": "test_a_note_is_gone_as_soon_as_its_advice_is_followed",
    "reporting.registry.find_renderer": "test_a_renderer_is_named_as_advised",
    "reporting.variants._ALL_DIVERGED": "test_a_search_that_only_diverged_begins_at_a_much_lower_rate_as_advised",
    "reporting.variants._edge": "test_a_search_that_begins_at_the_edge_of_the_last_one_finds_what_lies_beyond",
    "running.executors._found": "test_an_executor_is_named_as_advised",
    "running.local.executor._NEIGHBOURS": "test_a_training_of_another_run_on_the_processor_disturbs",
    "running.timing.time": "test_the_processes_of_a_run_share_what_they_time",
    "running.unchanged.check": "test_a_text_that_is_not_there_is_given_as_advised",
    "running.unchanged.refuse_missing_texts": "test_a_text_that_is_not_there_is_given_as_advised",
    "settings.ini._refuse_unread": "test_a_table_that_pytest_passes_over_is_written_as_advised",
    "settings.parsers.adapter_config_of": "test_the_configuration_of_an_adapter_is_given_as_advised",
    "settings.parsers.cache_size_of": "test_a_store_of_no_size_or_of_any_is_set_as_advised",
    "settings.parsers.folder_of": "test_a_folder_is_named_as_advised",
    "settings.parsers.output_of": "test_a_file_that_can_be_written_is_named_as_advised",
    "settings.parsers.template_of": "test_a_chat_template_is_named_or_given_as_advised",
    "settings.parsers.update_of": "test_accepting_is_asked_for_on_the_command_line_as_advised",
    "settings.reading._peft": "test_a_learning_rate_without_a_rule_is_set_as_advised",
    "settings.reading.marker_problem": "test_a_marker_is_written_as_advised",
    "settings.reading.read_settings": "test_a_calibration_has_a_file_as_advised",
    "settings.reading.workload": "test_the_keys_that_a_workload_asks_for_are_enough",
    "specs.methods.lora.__post_init__": "test_an_option_with_a_field_is_given_there_as_advised",
    "specs.methods.peft._joined": "test_a_file_of_peft_s_is_mended_as_advised",
    "specs.methods.peft._of_file": "test_a_file_of_peft_s_is_mended_as_advised",
    "specs.methods.peft._of_object": "test_a_configuration_of_peft_s_own_is_given_as_advised",
    "specs.methods.peft._refuse": "test_another_method_is_given_to_peft_as_advised",
    "specs.methods.variants._check_class": "test_a_kind_of_ones_own_is_made_as_advised",
    "specs.methods.variants.register_variant": "test_a_kind_of_ones_own_is_made_as_advised",
    "specs.methods.variants.with_learning_rate": "test_a_method_without_a_rule_is_given_a_rate_as_advised",
    "specs.refused.REFUSED_LORA_OPTIONS": "test_another_method_is_given_to_peft_as_advised",
    "specs.refused.REFUSED_MODEL_ARGS": "test_what_is_refused_is_set_as_advised",
    "specs.refused.REFUSED_TRAINING_ARGS": "test_what_is_refused_is_set_as_advised",
    "specs.refused._FP32": "test_what_is_refused_is_set_as_advised",
    "specs.refused._INSTEAD": "test_an_initialisation_is_chosen_as_advised",
    "specs.refused._IS_LORA": "test_another_method_is_given_to_peft_as_advised",
    "specs.refused._ONE_DEVICE": "test_what_is_refused_is_set_as_advised",
    "specs.refused._TOKEN": "test_what_is_refused_is_set_as_advised",
    "specs.texts.hub_text": "test_data_on_the_hub_are_written_as_advised",
    "specs.trial.__post_init__": "test_a_method_without_a_rule_is_given_a_rate_as_advised",
    "specs.workload._check_own_training": "test_one_of_two_own_trainings_is_left_out_as_advised",
    "store.contents.text_content": "test_data_on_the_hub_are_written_as_advised",
    "store.fingerprint._with_contents": "test_files_that_options_name_count_by_content",
    "tasks.base.rows": "test_a_task_gives_the_rows_of_its_examples_as_advised",
    "tasks.causal_lm.behaviour.check_causality": "test_what_a_model_must_do_is_done_by_one_that_is_given_as_advised",
    "tasks.causal_lm.behaviour.check_loss": "test_what_a_model_must_do_is_done_by_one_that_is_given_as_advised",
    "tasks.causal_lm.behaviour.check_still_causal": "test_what_a_model_must_do_is_done_by_one_that_is_given_as_advised",
    "tasks.causal_lm.data._cut_text": "test_a_smaller_block_that_is_advised_gives_as_many_sequences_as_gates_need",
    "tasks.causal_lm.data.blocks_of": "test_a_smaller_block_or_batch_that_is_advised_is_enough_for_a_batch",
    "tasks.causal_lm.data.check_texts": "test_texts_are_made_two_as_advised",
    "tasks.causal_lm.data.evaluation_set_of_ids": "test_each_sequence_has_a_document_as_advised",
    "tasks.causal_lm.data.left_over_set": "test_as_few_validation_sequences_as_are_advised_leave_enough_for_a_search",
    "tasks.causal_lm.folders.PREDICTS_TOKENS": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders._MERGE": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders._a_file": "test_a_folder_takes_the_place_of_a_file_as_advised",
    "tasks.causal_lm.folders._adapter": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders._config_kind": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders._others": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders._pull": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders._unknown": "test_code_of_a_model_is_trusted_as_advised",
    "tasks.causal_lm.folders._without_config": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.folders.check_tokenizer_folder": "test_a_folder_takes_the_place_of_a_file_as_advised",
    "tasks.causal_lm.folders.read": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.model_kinds._GIVE": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.models._cannot_load": "test_a_name_that_cannot_be_reached_is_a_folder_as_advised",
    "tasks.causal_lm.models._check_context": "test_a_block_fits_the_model_as_advised",
    "tasks.causal_lm.models._no_vocabulary": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.models._refuse_cut_off_layers": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.models._refuse_random_weights": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.texts._beside": "test_texts_are_made_two_as_advised",
    "tasks.causal_lm.texts._check_fields": "test_a_field_of_another_task_is_removed_as_advised",
    "tasks.causal_lm.texts.check_context": "test_a_block_fits_the_model_as_advised",
    "tasks.causal_lm.weight_files._no_weights": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.causal_lm.weight_files.check_weight_files": "test_a_folder_is_made_a_model_s_as_advised",
    "tasks.chat.checks.check_packing": "test_packing_is_switched_off_as_advised",
    "tasks.chat.checks.check_virtual_tokens": "test_packing_is_switched_off_as_advised",
    "tasks.chat.examples._check_ends": "test_a_chat_template_is_given_as_advised",
    "tasks.chat.examples._check_same_format": "test_one_format_is_given_as_advised",
    "tasks.chat.examples._nothing_left": "test_a_block_that_a_prompt_fills_is_raised_as_advised",
    "tasks.chat.examples._training": "test_a_batch_of_conversations_is_filled_as_advised",
    "tasks.chat.examples.workload_examples": "test_a_batch_of_conversations_is_filled_as_advised",
    "tasks.chat.formats._columns": "test_rows_of_a_chat_are_mended_as_advised",
    "tasks.chat.formats._row": "test_rows_of_a_chat_are_mended_as_advised",
    "tasks.chat.formats.chat_rows": "test_rows_of_a_chat_are_mended_as_advised",
    "tasks.chat.tokens._tokenized": "test_a_conversation_without_the_assistant_is_removed_as_advised",
    "tasks.chat.tokens.check_template": "test_a_chat_template_is_given_as_advised",
    "tasks.classification.examples._check_fields": "test_rows_with_labels_are_trained_on_as_advised",
    "tasks.classification.examples.workload_examples": "test_rows_with_labels_are_trained_on_as_advised",
    "tasks.classification.model._GIVE": "test_a_model_that_can_classify_is_given_as_advised",
    "tasks.classification.rows.classes_of": "test_labels_are_written_as_advised",
    "tasks.registry._path": "test_a_task_is_named_as_advised",
    "tasks.registry.find_task": "test_a_task_is_named_as_advised",
    "tasks.rows.choosing._left_over": "test_rows_are_left_over_for_a_search_as_advised",
    "tasks.rows.choosing.choose": "test_rows_that_are_trained_on_are_removed_as_advised",
    "tasks.rows.evaluated._slices": "test_a_column_of_slices_is_named_as_advised",
    "tasks.rows.reading._called": "test_rows_of_a_function_are_given_as_advised",
    "tasks.rows.reading._datasets": "test_what_is_to_be_installed_is_an_extra_that_holds_it",
    "tasks.rows.reading._from_file": "test_rows_are_read_from_a_file_or_a_split_as_advised",
    "tasks.rows.reading._one_split": "test_rows_are_read_from_a_file_or_a_split_as_advised",
    "tasks.rows.reading.read_rows": "test_rows_of_a_function_are_given_as_advised",
    "tasks.text.columns.text_of_rows": "test_rows_without_texts_are_trained_on_by_the_task_that_is_named",
    "tasks.text.files._AS_DOCUMENTS": "test_what_is_no_list_of_documents_is_written_as_advised",
    "tasks.text.files._OF_CHAT": "test_conversations_as_texts_are_read_by_the_task_that_is_named",
    "tasks.text.files._decoded": "test_a_text_in_another_encoding_is_converted_as_advised",
    "tasks.text.files._refuse_structure": "test_structure_in_a_plain_text_is_renamed_or_written_as_advised",
    "tasks.text.files._table_documents": "test_a_table_is_mended_as_advised",
    "tasks.text.files._whole_characters": "test_a_text_that_is_cut_off_or_empty_or_missing_is_saved_as_advised",
    "tasks.text.files.read_text": "test_a_text_that_is_cut_off_or_empty_or_missing_is_saved_as_advised",
    "tasks.text.remedies._BY_HAND": "test_markup_is_renamed_as_advised",
    "tasks.text.remedies.remedy": "test_a_packed_text_is_unpacked_as_advised",
    "tasks.text.tokens._REMEDY": "test_a_real_text_or_a_tokenizer_that_knows_it_is_given_as_advised",
    "tasks.text.tokens.check_ids": "test_a_token_beyond_the_embeddings_is_named",
    "tasks.text.tokens.tokenized": "test_a_real_text_or_a_tokenizer_that_knows_it_is_given_as_advised",
    "training.adapters.checks.check_targets": "test_a_target_is_named_as_advised",
    "training.adapters.head.check_head": "test_a_method_that_trains_the_head_too_is_chosen_as_advised",
    "training.adapters.peft.check": "test_another_method_is_chosen_as_advised",
    "training.adapters.quantization._config": "test_what_is_to_be_installed_is_an_extra_that_holds_it",
    "training.adapters.quantization.quantize": "test_a_base_is_quantized_in_one_way_as_advised",
    "training.adapters.registry.find_adapter": "test_an_adapter_is_named_as_advised",
    "training.adapters.wrapping._cannot_apply": "test_another_method_is_chosen_as_advised",
    "training.arguments.training_arguments": "test_arguments_are_spelt_as_advised",
    "training.callback_spec.check_kind": "test_a_classifier_is_trained_by_the_task_that_the_callback_names",
    "training.callback_spec.check_score": "test_a_score_of_the_callback_has_a_tokenizer_as_advised",
    "training.callback_texts._rows_in_tokens": "test_the_callback_is_given_what_it_evaluates_as_advised",
    "training.callback_texts.evaluation_set": "test_the_callback_is_given_what_it_evaluates_as_advised",
    "training.callback_texts.search_for": "test_the_callback_is_given_what_it_evaluates_as_advised",
    "training.forecast.will_not_fit": "test_a_training_that_will_not_fit_is_not_started",
    "training.forms._imported": "test_what_is_imported_is_put_where_it_is_found_as_advised",
    "training.function.load_function": "test_what_is_imported_is_put_where_it_is_found_as_advised",
    "training.generating._check_lengths": "test_a_prompt_has_room_for_an_answer_as_advised",
    "training.kept.no_room": "test_weights_are_kept_as_advised",
    "training.machine.resolve_device": "test_a_device_is_named_as_advised",
    "training.own_trainer._other_parts": "test_a_class_that_changes_nothing_trains_what_ours_trains",
    "training.own_trainer._other_rate": "test_a_class_that_changes_nothing_trains_what_ours_trains",
    "training.own_trainer._other_work": "test_a_trainer_that_leaves_all_as_it_is_may_train_other_batches_as_advised",
    "training.own_trainer.load_trainer": "test_what_is_imported_is_put_where_it_is_found_as_advised",
    "training.own_trainer.train_with_class": "test_a_class_that_changes_nothing_trains_what_ours_trains",
    "training.scoring._check_order": "test_scores_in_another_order_than_the_rows_are_refused",
    "training.scoring.check_asked": "test_examples_are_described_or_not_asked_for_as_advised",
    "training.scoring.load_score": "test_what_is_imported_is_put_where_it_is_found_as_advised",
    "training.start.base_of_wrapped": "test_a_base_that_cannot_be_told_and_a_missing_tokenizer_are_errors_at_the_start",
    "training.trial.lower_rate": "test_a_lower_rate_is_given_as_advised",
}
"""Each function or constant with advice, and the test that follows it."""

NOT_FOLLOWED: Final = {
    "plugin.options.OPTIONS": "help of an option, no message",
    "reporting.notes._schedule": "it says what to believe, and nothing to do",
    "running.local.ending.too_late": "a training that outlasts its timeout, and one that does not, cost seconds",
    "settings.keys._RUN": "help of keys, no message",
    "tasks.causal_lm.folders._of_gguf": "needs weights in GGUF, which an optional package writes",
    "training.callback._owns_memory": "needs an accelerator",
    "training.machine.resolve_precision": "needs an accelerator without units for bf16",
    "training.order.__call__": "it says where to look, and what masks the labels is the user's own code",
}
"""Those that no test follows, and why."""

ROOT: Final = Path(__file__).parents[2]
ROOMS: Final = ("settings", "store", "running", "plugin", "specs", "tasks", "training", "reporting")
VERBS: Final = (
    "accept|adapt|add|ask|begin|call|change|check|choose|commit|compare|convert|copy|correct|create|define|"
    "delete|download|drop|extract|free|give|increase|install|keep|leave|let|load|look|lower|make|mark|measure|"
    "merge|move|name|override|pass|pip|put|raise|read|rely|remove|rename|repeat|replace|return|run|save|search|"
    "set|shorten|shuffle|split|start|stop|switch|take|train|try|turn|unpack|unset|update|upgrade|use|wait|"
    "write"
)
IMPERATIVE: Final = re.compile(rf"(?:^|[;:.,] |\((?!set by))(?:or |and |so )?(?:{VERBS})\b [^\s=|]", re.IGNORECASE)


def _advising() -> Iterator[str]:
    """Each function, and each constant of a module, with a text that gives advice.

    A text is a string or an f-string outside of docstrings. It gives advice if it has an imperative: one of the verbs
    above at its start, or after a semicolon, a colon, a full stop, a comma or a bracket. Advice in other words, such as
    "x must be y" or "needs x", and advice that is put together of words from several strings are not found.
    """
    for room in ROOMS:
        for path in sorted((ROOT / "src/pytest_ftguard" / room).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT / "src/pytest_ftguard").with_suffix("").parts)
            for place, node in _places(ast.parse(path.read_text(encoding="utf-8"))):
                if any(IMPERATIVE.search(text) for text in _texts(node)):
                    yield f"{module}.{place}"


def _places(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            yield ast.unparse(target), node.value
    yield from ((node.name, node) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _texts(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef) or (
            isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        ):
            continue
        yield from _texts(child)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(one.value) if isinstance(one, ast.Constant) else "x" for one in node.values)


def test_every_advice_has_a_test_that_follows_it() -> None:
    """A new one needs a row in the table above, with a test that exists, or a reason why there is none."""
    assert set(_advising()) == set(ADVICE) | set(NOT_FOLLOWED)
    assert not set(ADVICE) & set(NOT_FOLLOWED)
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    missing = {test for test in ADVICE.values() if not any(f"def {test}(" in text for text in texts)}
    assert not missing


@pytest.mark.parametrize(
    ("module", "library"), [("tasks/rows/reading", "datasets"), ("training/adapters/quantization", "bitsandbytes")]
)
def test_what_is_to_be_installed_is_an_extra_that_holds_it(module: str, library: str) -> None:
    """The name in the command is one of the package's own extras."""
    source = (ROOT / f"src/pytest_ftguard/{module}.py").read_text(encoding="utf-8")
    extra = re.search(r"pip install 'pytest-ftguard\[(\w+)\]'", source)
    assert extra is not None
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    assert re.search(rf'^{extra[1]} = \[[^\]]*"{library}', settings, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "advises"),
    [
        ('raise E(f"{x} is missing: set ftguard_x")', True),
        ('raise E(f"{x} is empty; give a longer text{y}")', True),
        ('m = "it fails. Set ftguard_x = no to go on"', True),
        ('m = "it fails (or set it to all)"', True),
        ('m = ", or train for fewer steps"', True),
        ('"""Do it: set all."""', False),
        ('m = f"x is 3 (set by {place})"', False),
        ('m = "the setting of x is wrong: it must be a number"', False),
        ('d = {"set": 1, "a: set": 2}', False),
    ],
)
def test_advice_is_an_imperative_in_a_text(source: str, advises: bool) -> None:
    """Both sides of what the table is held to."""
    tree = ast.parse(f"def function():\n    {source}\n")
    assert any(IMPERATIVE.search(text) for _, node in _places(tree) for text in _texts(node)) is advises
