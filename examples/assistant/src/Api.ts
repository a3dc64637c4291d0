/**
 * The HTTP API as data: what can be asked, with which answers and errors. The page and the tests use it, too.
 *
 * @since 0.1.0
 */
import { HttpApi, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "@effect/platform"
import { Schema } from "effect"
import { HistoryMessage, SessionBusy, SessionNotFound, ShuttingDown, StoreUnavailable } from "./Conversation.ts"

/**
 * The longest question, in characters.
 *
 * @since 0.1.0
 * @category constants
 */
export const maxQuestion = 4_000

/**
 * The longest request body, in bytes.
 *
 * @since 0.1.0
 * @category constants
 */
export const maxBody = 32 * 1024

/**
 * The request is not what the API takes. Each problem names the field.
 *
 * @since 0.1.0
 * @category errors
 */
export class BadRequest extends Schema.TaggedError<BadRequest>()(
  "BadRequest",
  {
    message: Schema.String,
    problems: Schema.Array(Schema.Struct({ field: Schema.String, problem: Schema.String }))
  },
  HttpApiSchema.annotations({ status: 400 })
) {}

/**
 * The request body is larger than the API takes.
 *
 * @since 0.1.0
 * @category errors
 */
export class BodyTooLarge extends Schema.TaggedError<BodyTooLarge>()(
  "BodyTooLarge",
  { message: Schema.String },
  HttpApiSchema.annotations({ status: 413 })
) {}

/**
 * A question.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Ask = Schema.Struct({
  question: Schema.Trim.pipe(
    Schema.minLength(1, { message: () => "must not be empty" }),
    Schema.maxLength(maxQuestion, { message: () => `must not be longer than ${maxQuestion} characters` })
  )
})

/**
 * A session that was opened.
 *
 * @since 0.1.0
 * @category schemas
 */
export const SessionCreated = Schema.Struct({ id: Schema.String })

/**
 * A part of the assistant as the page shows it.
 *
 * @since 0.1.0
 * @category schemas
 */
export const PartReport = Schema.Struct({
  name: Schema.String,
  mode: Schema.Literal("embedded", "real"),
  what: Schema.String,
  address: Schema.optional(Schema.String),
  switch: Schema.optional(Schema.String),
  status: Schema.Literal("up", "degraded", "down")
})

/**
 * All parts, and what the runbooks can be asked about.
 *
 * @since 0.1.0
 * @category schemas
 */
export const PartsReport = Schema.Struct({
  parts: Schema.Array(PartReport),
  runbooks: Schema.Array(Schema.Struct({ id: Schema.String, title: Schema.String, service: Schema.String }))
})

const sessionId = HttpApiSchema.param("id", Schema.String.pipe(Schema.pattern(/^[A-Za-z0-9_-]{1,64}$/)))

/**
 * Sessions: open one, ask in it, read what was said.
 *
 * @since 0.1.0
 * @category http
 */
export const sessions = HttpApiGroup.make("sessions")
  .add(
    HttpApiEndpoint.post("create", "/api/sessions")
      .addSuccess(SessionCreated, { status: 201 })
      .addError(StoreUnavailable, { status: 503 })
      .addError(ShuttingDown, { status: 503 })
  )
  .add(
    HttpApiEndpoint.post("ask")`/api/sessions/${sessionId}/ask`
      .setPayload(Ask)
      .addSuccess(HttpApiSchema.Text({ contentType: "text/event-stream" }))
      .addError(SessionNotFound, { status: 404 })
      .addError(SessionBusy, { status: 409 })
      .addError(StoreUnavailable, { status: 503 })
      .addError(ShuttingDown, { status: 503 })
  )
  .add(
    HttpApiEndpoint.get("history")`/api/sessions/${sessionId}/history`
      .addSuccess(Schema.Struct({ messages: Schema.Array(HistoryMessage) }))
      .addError(SessionNotFound, { status: 404 })
      .addError(StoreUnavailable, { status: 503 })
  )

/**
 * What the assistant is made of.
 *
 * @since 0.1.0
 * @category http
 */
export const parts = HttpApiGroup.make("parts").add(HttpApiEndpoint.get("parts", "/api/parts").addSuccess(PartsReport))

/**
 * The whole API.
 *
 * @since 0.1.0
 * @category http
 */
export const api = HttpApi.make("assistant").add(sessions).add(parts).addError(BadRequest).addError(BodyTooLarge)
