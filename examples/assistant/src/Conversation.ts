/**
 * What goes over the wire and into the page: the events of an answer, sessions and their history, as schemas.
 *
 * @since 0.1.0
 */
import { Schema } from "effect"

/**
 * A section that an answer cites by `number`.
 *
 * @since 0.1.0
 * @category schemas
 */
export const CitedSource = Schema.Struct({
  number: Schema.Int,
  role: Schema.Literal("answer", "related"),
  id: Schema.String,
  runbook: Schema.String,
  title: Schema.String,
  heading: Schema.String,
  text: Schema.String,
  score: Schema.Number
})
/**
 * @since 0.1.0
 * @category models
 */
export type CitedSource = typeof CitedSource.Type

/**
 * What the client of an answer can be told went wrong.
 *
 * @since 0.1.0
 * @category schemas
 */
export const FailureCode = Schema.Literal("StoreUnavailable", "SearchFailed", "ModelFailed", "ShuttingDown", "Internal")

/**
 * The assistant is working, or has something to say about how.
 *
 * @since 0.1.0
 * @category schemas
 */
export class StatusEvent extends Schema.TaggedClass<StatusEvent>()("status", {
  phase: Schema.Literal("searching", "answering", "notice"),
  message: Schema.String
}) {}

/**
 * The sections that the answer may cite; comes before the text.
 *
 * @since 0.1.0
 * @category schemas
 */
export class SourcesEvent extends Schema.TaggedClass<SourcesEvent>()("sources", {
  sources: Schema.Array(CitedSource)
}) {}

/**
 * The next piece of the answer's text.
 *
 * @since 0.1.0
 * @category schemas
 */
export class DeltaEvent extends Schema.TaggedClass<DeltaEvent>()("delta", { text: Schema.String }) {}

/**
 * The answer is complete and kept in the conversation. `cited` are the numbers that its text names. `kind` says whether
 * it answers, names only what is nearest, asks back, or says that nothing was found.
 *
 * @since 0.1.0
 * @category schemas
 */
export class DoneEvent extends Schema.TaggedClass<DoneEvent>()("done", {
  kind: Schema.Literal("answer", "unsure", "question", "nothing"),
  answerer: Schema.String,
  model: Schema.String,
  finish: Schema.Literal("stop", "length", "refused"),
  cited: Schema.Array(Schema.Int),
  inputTokens: Schema.optional(Schema.Number),
  outputTokens: Schema.optional(Schema.Number)
}) {}

/**
 * The answer ended here with a failure; nothing of it is kept.
 *
 * @since 0.1.0
 * @category schemas
 */
export class ErrorEvent extends Schema.TaggedClass<ErrorEvent>()("error", {
  code: FailureCode,
  message: Schema.String,
  retryable: Schema.Boolean
}) {}

/**
 * One event of an answer.
 *
 * @since 0.1.0
 * @category schemas
 */
export const AskEvent = Schema.Union(StatusEvent, SourcesEvent, DeltaEvent, DoneEvent, ErrorEvent)
/**
 * @since 0.1.0
 * @category models
 */
export type AskEvent = typeof AskEvent.Type

/**
 * One message of a conversation as the page shows it.
 *
 * @since 0.1.0
 * @category schemas
 */
export const HistoryMessage = Schema.Struct({
  role: Schema.Literal("user", "assistant"),
  text: Schema.String,
  sources: Schema.Array(CitedSource),
  answerer: Schema.optional(Schema.String),
  model: Schema.optional(Schema.String)
})
/**
 * @since 0.1.0
 * @category models
 */
export type HistoryMessage = typeof HistoryMessage.Type

/**
 * There is no such session, or it has expired.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionNotFound extends Schema.TaggedError<SessionNotFound>()("SessionNotFound", {
  message: Schema.String
}) {}

/**
 * Another answer is being written in this session.
 *
 * @since 0.1.0
 * @category errors
 */
export class SessionBusy extends Schema.TaggedError<SessionBusy>()("SessionBusy", { message: Schema.String }) {}

/**
 * Sessions and conversations cannot be read or written at present.
 *
 * @since 0.1.0
 * @category errors
 */
export class StoreUnavailable extends Schema.TaggedError<StoreUnavailable>()("StoreUnavailable", {
  message: Schema.String,
  retryable: Schema.Boolean
}) {}

/**
 * The service is stopping and takes no more questions.
 *
 * @since 0.1.0
 * @category errors
 */
export class ShuttingDown extends Schema.TaggedError<ShuttingDown>()("ShuttingDown", { message: Schema.String }) {}
