/**
 * The port of whoever writes the answer: a language model, or the local answerer that composes it from the runbooks.
 *
 * @since 0.1.0
 */
import type { ChatMessage } from "@underlay/core"
import { Context, Schema, type Stream } from "effect"
import type { Purpose, Runbook, Section } from "./Runbooks.ts"

/**
 * A section that the answer may cite, by its number in the text: `[1]`. `role` is `answer` for the sections of the
 * runbook that answers, `related` for those of runbooks that may be meant instead.
 *
 * @since 0.1.0
 * @category models
 */
export interface Source {
  readonly number: number
  readonly role: "answer" | "related"
  readonly section: Section
  readonly score: number
}

/**
 * A question with everything that is known for its answer. `history` are the messages before it, oldest first. `sure`
 * says whether the search found what the question is about, or only what is nearest; `strange` are the words of the
 * question that no runbook knows; `also` are the numbers of the sources that another part of the question is about.
 *
 * @since 0.1.0
 * @category models
 */
export interface Question {
  readonly text: string
  readonly purpose: Purpose | undefined
  readonly runbook: Runbook
  readonly sources: ReadonlyArray<Source>
  readonly history: ReadonlyArray<ChatMessage.ChatMessage>
  readonly sure: boolean
  readonly strange: ReadonlyArray<string>
  readonly also: ReadonlyArray<number>
}

/**
 * A piece of an answer. `notice` is said to the user beside the text; `end` comes once, last.
 *
 * @since 0.1.0
 * @category models
 */
export type AnswerPart =
  | { readonly type: "notice"; readonly text: string }
  | { readonly type: "text"; readonly text: string }
  | {
      readonly type: "end"
      readonly answerer: string
      readonly model: string
      readonly finish: "stop" | "length" | "refused"
      /** The answer only names what is nearest, and says so. */
      readonly unsure?: boolean | undefined
      readonly tokens?: { readonly input: number | undefined; readonly output: number | undefined } | undefined
    }

/**
 * The answer could not be written to its end. `started` says whether part of it was already given.
 *
 * @since 0.1.0
 * @category errors
 */
export class AnswerError extends Schema.TaggedError<AnswerError>()("AnswerError", {
  answerer: Schema.String,
  description: Schema.String,
  isRetryable: Schema.Boolean,
  started: Schema.Boolean,
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    return this.description
  }
}

/**
 * Whoever writes the answers.
 *
 * @since 0.1.0
 * @category tags
 */
export class Answerer extends Context.Tag("@underlay/examples/assistant/Answerer")<
  Answerer,
  {
    /** `local`, or the provider's name. */
    readonly name: string
    readonly model: string
    readonly answer: (question: Question) => Stream.Stream<AnswerPart, AnswerError>
  }
>() {}
