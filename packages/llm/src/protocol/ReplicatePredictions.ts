/**
 * Replicate's predictions as a wire format: a model's input out; predictions, and the events of streamed ones, in. What the
 * input of a model is called differs, so its fields are options.
 *
 * @since 0.1.0
 */
import type { ChatMessage, FilePart } from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import { Assembly, noUsage } from "../internal/assembly.ts"
import {
  type CallContext,
  type Envelope,
  envelopeOf,
  envelopeOfBody,
  errorOf,
  isRecord,
  ownError,
  type Place
} from "../internal/classify.ts"
import * as Sse from "../internal/sse.ts"
import * as StreamDecoders from "../internal/streamDecoder.ts"
import { count, type Json, json, string } from "../internal/wire.ts"
import { LlmError } from "../LlmError.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import { contentOf, type LlmResponse, type Usage } from "../LlmResponse.ts"
import type { EncodeOptions, Protocol, StreamDecoder } from "./Protocol.ts"

/**
 * What the fields of a model's input are called; `false` where the model has none. The names that are given here as
 * defaults are those of most language models on Replicate.
 *
 * - `conversation`: `prompt` writes the conversation as one text (alone if it is a single question, else with `User:` and
 *   `Assistant:` before each turn), `messages` sends it as a list of roles and texts. By default `prompt`.
 * - `system`: for the system messages; by default `system_prompt`. Without it they stand before the conversation.
 * - `image`: for one image, or `images` for a list of them, by URL or as data; by default there is none.
 * - `maxTokens`, `temperature`, `topP`, `topK`, `seed`, `frequencyPenalty`, `presencePenalty`: by default `max_tokens`,
 *   `temperature`, `top_p`, `top_k`, `seed`, `frequency_penalty`, `presence_penalty`.
 * - `stop`: by default `stop_sequences`, as one text with commas between, which cannot have a comma in it.
 * - `reasoningEffort`: by default `reasoning_effort`.
 *
 * @since 0.1.0
 * @category models
 */
export interface InputFields {
  readonly conversation?: "prompt" | "messages" | undefined
  readonly system?: string | false | undefined
  readonly image?: string | undefined
  readonly images?: string | undefined
  readonly maxTokens?: string | false | undefined
  readonly temperature?: string | false | undefined
  readonly topP?: string | false | undefined
  readonly topK?: string | false | undefined
  readonly seed?: string | false | undefined
  readonly frequencyPenalty?: string | false | undefined
  readonly presencePenalty?: string | false | undefined
  readonly stop?: string | false | undefined
  readonly reasoningEffort?: string | false | undefined
}

/**
 * A model's input from a request, for models that `InputFields` cannot describe. A `Left` says what cannot be carried.
 *
 * @since 0.1.0
 * @category models
 */
export type InputOf = (request: LlmRequest) => Either.Either<Readonly<Record<string, unknown>>, string>

/**
 * @since 0.1.0
 * @category models
 */
export interface Dialect {
  /** The name under which a request's `providerOptions` are found: they are fields of the input. */
  readonly provider: string
  readonly input?: InputFields | InputOf | undefined
}

// ---------------------------------------------------------------------------------------------------------------------
// Requests
// ---------------------------------------------------------------------------------------------------------------------

const urlOf = (part: FilePart): string =>
  part.source.type === "url"
    ? part.source.url
    : `data:${part.mediaType};base64,${Encoding.encodeBase64(part.source.bytes)}`

/** One turn of the conversation: who speaks, what, and the images that go with it. */
interface Turn {
  readonly role: "system" | "user" | "assistant"
  readonly text: string
  readonly images: ReadonlyArray<string>
}

const turnOf = (message: ChatMessage): Either.Either<Turn, string> => {
  switch (message.role) {
    case "system":
      return Either.right({ role: "system", text: message.content, images: [] })
    case "user": {
      const texts: Array<string> = []
      const images: Array<string> = []
      for (const part of message.content) {
        if (part.type === "text") texts.push(part.text)
        else if (part.mediaType.startsWith("image/")) images.push(urlOf(part))
        else if (part.mediaType.startsWith("text/") && part.source.type !== "url") {
          const text = new TextDecoder().decode(part.source.bytes)
          texts.push(part.name === undefined ? text : `${part.name}:\n${text}`)
        } else
          return Either.left(`predictions take no ${part.mediaType}: send its text, or name its field by \`input\``)
      }
      return Either.right({ role: "user", text: texts.join("\n\n"), images })
    }
    case "assistant": {
      let text = ""
      for (const part of message.content) {
        if (part.type === "text") text += part.text
        else if (part.type === "tool-call")
          return Either.left("predictions know no calls of tools: ask another provider")
      }
      return Either.right({ role: "assistant", text, images: [] })
    }
    case "tool":
      return Either.left("predictions know no results of tools: ask another provider")
  }
}

const speakers = { system: "System", user: "User", assistant: "Assistant" } as const

/** A conversation as a text that a model goes on with. A question alone is sent as it is. */
const promptOf = (turns: ReadonlyArray<Turn>): string => {
  const [only] = turns
  if (only !== undefined && turns.length === 1) return only.text
  const lines = turns.map(({ role, text }) => `${speakers[role]}: ${text}`)
  return [...lines, `${speakers.assistant}:`].join("\n\n")
}

const inputOf = (request: LlmRequest, fields: InputFields): Either.Either<Json, string> =>
  Either.flatMap(Either.all(request.messages.map(turnOf)), (turns): Either.Either<Json, string> => {
    const input: Record<string, unknown> = {}
    const set = (name: string | false | undefined, usual: string, value: unknown) => {
      if (value !== undefined && name !== false) input[name ?? usual] = value
    }

    const listed = fields.conversation === "messages"
    const system = turns.filter(({ role }) => role === "system")
    const spoken = turns.filter(({ role }) => role !== "system")
    const apart = fields.system !== false && !listed
    if (apart && system.length > 0) set(fields.system, "system_prompt", system.map(({ text }) => text).join("\n\n"))
    if (listed) input["messages"] = turns.map(({ role, text }) => ({ role, content: text }))
    else if (apart || system.length === 0) input["prompt"] = promptOf(spoken)
    else input["prompt"] = [...system.map(({ text }) => text), promptOf(spoken)].join("\n\n")

    const images = spoken.flatMap((turn) => turn.images)
    const [image] = images
    if (image !== undefined) {
      if (fields.images !== undefined) input[fields.images] = images
      else if (fields.image === undefined) {
        return Either.left("this model's field for images is not known: name it by `input: { images }` or `{ image }`")
      } else if (images.length > 1)
        return Either.left("this model takes one image: send one, or name a list by `images`")
      else input[fields.image] = image
    }

    set(fields.maxTokens, "max_tokens", request.maxTokens)
    set(fields.temperature, "temperature", request.temperature)
    set(fields.topP, "top_p", request.topP)
    set(fields.topK, "top_k", request.topK)
    set(fields.seed, "seed", request.seed)
    set(fields.frequencyPenalty, "frequency_penalty", request.frequencyPenalty)
    set(fields.presencePenalty, "presence_penalty", request.presencePenalty)
    set(fields.reasoningEffort, "reasoning_effort", request.reasoningEffort)
    if (request.stop !== undefined && request.stop.length > 0) {
      if (request.stop.some((text) => text.includes(","))) {
        return Either.left("stop sequences stand in a list with commas: one with a comma in it cannot be sent")
      }
      set(fields.stop, "stop_sequences", request.stop.join(","))
    }
    return Either.right(input)
  })

/** What a prediction has no words for, whatever the model. */
const refused = (request: LlmRequest): string | undefined => {
  const { responseFormat, toolChoice, tools } = request
  if (tools !== undefined && tools.length > 0 && toolChoice !== "none") {
    return "predictions know no tools: leave them out, or ask another provider"
  }
  return responseFormat !== undefined && responseFormat.type !== "text"
    ? "predictions have no format of the answer: say in the prompt what is wanted"
    : undefined
}

/**
 * The JSON body that makes a prediction. A model that is named with a version (`owner/name:version`, or the version alone)
 * is asked for by it. Fails with `InvalidRequest` for what the model's input cannot carry, such as tools.
 *
 * @since 0.1.0
 * @category combinators
 */
export const encode = (
  request: LlmRequest,
  options: EncodeOptions & { readonly dialect: Dialect }
): Either.Either<string, LlmError> => {
  const { dialect } = options
  const model = request.model ?? options.model
  const failed = (issue: string) =>
    new LlmError({
      reason: "InvalidRequest",
      method: options.method,
      provider: dialect.provider,
      model,
      issue,
      retryable: false,
      midStream: false
    })
  const given = dialect.input ?? {}
  const issue = typeof given === "function" ? undefined : refused(request)
  if (issue !== undefined) return Either.left(failed(issue))
  const input = typeof given === "function" ? given(request) : inputOf(request, given)
  return Either.flatMap(Either.mapLeft(input, failed), (fields) =>
    Either.try({
      try: () =>
        JSON.stringify({
          ...versionOf(model),
          input: { ...fields, ...request.providerOptions?.[dialect.provider] },
          ...(options.stream ? { stream: true } : {})
        }),
      catch: () => failed("the input cannot be written as JSON")
    })
  )
}

/** The version that a model is named with, as a field of the body. */
const versionOf = (model: string): { readonly version?: string } => {
  const named = /^[^/:]+\/[^/:]+:(.+)$/.exec(model)?.[1] ?? (model.includes("/") ? undefined : model)
  return named === undefined ? {} : { version: named }
}

/**
 * Where predictions of a model are made, after the base URL: a model that is named with its version by that version, a
 * model without by its name, `deployments/owner/name` by the deployment.
 *
 * @since 0.1.0
 * @category combinators
 */
export const endpointOf = (model: string): string => {
  if (versionOf(model).version !== undefined) return "/predictions"
  const path = model.split("/").map(encodeURIComponent).join("/")
  return model.startsWith("deployments/") ? `/${path}/predictions` : `/models/${path}/predictions`
}

// ---------------------------------------------------------------------------------------------------------------------
// Answers
// ---------------------------------------------------------------------------------------------------------------------

/**
 * A prediction as far as it is looked at here. `state` is `running` until it has ended one way or the other.
 *
 * @since 0.1.0
 * @category models
 */
export interface Prediction {
  readonly id: string
  readonly state: "running" | "succeeded" | "failed" | "canceled"
  readonly getUrl: string | undefined
  readonly cancelUrl: string | undefined
  readonly streamUrl: string | undefined
}

const states: ReadonlyMap<string, Prediction["state"]> = new Map([
  ["starting", "running"],
  ["processing", "running"],
  ["queued", "running"],
  ["succeeded", "succeeded"],
  ["successful", "succeeded"],
  ["failed", "failed"],
  ["canceled", "canceled"],
  ["cancelled", "canceled"],
  ["aborted", "canceled"]
])

const stateOf = (record: Json): Prediction["state"] | undefined => {
  const status = string(record["status"])?.toLowerCase()
  if (status === undefined) return undefined
  // A word that is not known: what has an end has ended.
  const ended = string(record["completed_at"]) !== undefined
  return states.get(status) ?? (!ended ? "running" : isBlank(record["error"]) ? "succeeded" : "failed")
}

const isBlank = (value: unknown): boolean => value === undefined || value === null || value === ""

/** A prediction, as told from the body of an error, which has a `status` too. */
const isPrediction = (value: unknown): value is Json =>
  isRecord(value) && string(value["id"]) !== undefined && stateOf(value) !== undefined

/**
 * The prediction in the body of a response. Fails with the provider's error if the body is one in spite of its status, and
 * with `MalformedResponse` if it is no prediction at all.
 *
 * @since 0.1.0
 * @category combinators
 */
export const predictionOf = (body: string, context: CallContext): Either.Either<Prediction, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const value = Sse.parse(body)
  if (!isPrediction(value)) return Either.left(notPrediction(value, body, place))
  const urls = isRecord(value["urls"]) ? value["urls"] : {}
  return Either.right({
    id: string(value["id"]) ?? "",
    state: stateOf(value) ?? "running",
    getUrl: string(urls["get"]),
    cancelUrl: string(urls["cancel"]),
    streamUrl: string(urls["stream"])
  })
}

const notPrediction = (value: unknown, body: string, place: Place): LlmError => {
  if (value === undefined) {
    const issue = body.trim() === "" ? "the body is empty" : "the body is not JSON"
    return ownError("MalformedResponse", { ...place, issue })
  }
  const named = envelopeOf(value, false)
  if (named !== undefined) return errorOf(named, place)
  // Problem details: `{ title, detail, status }`.
  if (isRecord(value) && !isBlank(value["detail"])) {
    const envelope = envelopeOf(value, true)
    if (envelope !== undefined) return errorOf(envelope, place)
  }
  return ownError("MalformedResponse", { ...place, issue: "the body is no prediction" })
}

/** The text of an output: one, a list of pieces, or an object that has one. */
const textOf = (output: unknown): string => {
  if (output === undefined || output === null) return ""
  if (typeof output === "string") return output
  if (Array.isArray(output)) return output.map(textOf).join("")
  if (isRecord(output)) {
    for (const name of ["text", "output", "content", "response"]) {
      if (typeof output[name] === "string") return output[name]
    }
  }
  return json(output)
}

const usageOf = (record: Json): Usage | undefined => {
  const metrics = record["metrics"]
  if (!isRecord(metrics)) return undefined
  const input = count(metrics["input_token_count"]) ?? count(metrics["token_input_count"])
  const output = count(metrics["output_token_count"]) ?? count(metrics["token_output_count"])
  return input === undefined && output === undefined ? undefined : { input, output }
}

/** The version of an official model is hidden, and says so. */
const modelOf = (record: Json): string | undefined => {
  const version = string(record["version"])
  return string(record["model"]) ?? (version === "hidden" ? undefined : version)
}

/** Replicate's words for an input or an output that it does not want to see. */
const flagged = /flagged as sensitive|\bNSFW\b|\(E005\)/i

/** A prediction that failed has said so in words only: it is the model's fault unless the words tell more. */
const failureOf = (envelope: Envelope, place: Place): LlmError => {
  if (envelope.message !== undefined && flagged.test(envelope.message)) {
    return errorOf(envelope, place).with({ reason: "ContentFiltered", retryable: false })
  }
  const error = errorOf(envelope, place)
  return error.reason === "Unknown"
    ? error.with({ reason: "ServerError", retryable: !(place.midStream && place.hadContent) })
    : error
}

const words = (value: unknown): Envelope => {
  const envelope = isRecord(value) ? envelopeOf({ error: value }, true) : envelopeOf({ error: value }, false)
  return envelope ?? { message: undefined, codes: [], status: undefined, quotaIds: [], retryDelay: undefined }
}

/** Somebody else ended it, or its time was up: asking again is theirs to decide. */
const canceled = (place: Place): LlmError =>
  new LlmError({
    ...place.context,
    reason: "Unknown",
    status: place.status,
    retryable: false,
    midStream: place.midStream,
    issue: "the prediction was canceled",
    partial: place.partial,
    usage: place.usage
  })

/**
 * Decodes a prediction that has ended. Fails with the provider's error if it failed, and with `MalformedResponse` if it is
 * none, or has not ended.
 *
 * @since 0.1.0
 * @category combinators
 */
export const decode = (body: string, context: CallContext): Either.Either<LlmResponse, LlmError> => {
  const place: Place = { context, status: 200, midStream: false, hadContent: false }
  const value = Sse.parse(body)
  if (!isPrediction(value)) return Either.left(notPrediction(value, body, place))
  const usage = usageOf(value)
  switch (stateOf(value)) {
    case "failed":
      return Either.left(failureOf(words(value["error"]), { ...place, usage }))
    case "canceled":
      return Either.left(canceled({ ...place, usage }))
    case "succeeded": {
      const text = textOf(value["output"])
      const answer = { text, reasoning: "", refusal: undefined, toolCalls: [] }
      return Either.right({
        id: string(value["id"]),
        model: modelOf(value),
        ...answer,
        content: contentOf(answer),
        finish: "stop",
        finishReason: string(value["status"]),
        usage: usage ?? noUsage
      })
    }
    default:
      return Either.left(ownError("MalformedResponse", { ...place, issue: "the prediction has not ended" }))
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams
// ---------------------------------------------------------------------------------------------------------------------

/**
 * The name of an event of our own in a streamed answer: the prediction as it was made, or as it ended, which has what the
 * stream itself does not say (the id, the model, the usage, why it failed).
 *
 * @since 0.1.0
 * @category constants
 */
export const predictionEvent = "prediction"

/**
 * A decoder for one streamed answer: the events `output`, `error` and `done`, and predictions between them. A stream that
 * ends before `done` is truncated.
 *
 * @since 0.1.0
 * @category constructors
 */
export const makeStreamDecoder = (context: CallContext): StreamDecoder => {
  const answer = new Assembly(context)
  let events = 0
  let over = false
  let ending: "error" | "canceled" | undefined
  let last = false

  const onPrediction = (value: Json, whole: boolean) => {
    answer.id ??= string(value["id"])
    answer.model ??= modelOf(value)
    answer.usage = usageOf(value) ?? answer.usage
    const state = stateOf(value)
    if (state === "running" || state === undefined) return
    if (state === "failed") {
      // A stream that said `done` without a reason was whole, whatever became of the prediction after it.
      if (over && ending === undefined) last = true
      else answer.fail(failureOf(words(value["error"]), answer.place(!whole)))
    } else if (state === "canceled") {
      if (over && ending === undefined) last = true
      else answer.fail(canceled(answer.place(!whole)))
    } else {
      // The whole answer where the stream broke off, or never was: what it had brought is the beginning of it.
      const text = over ? "" : textOf(value["output"])
      const before = over ? "" : answer.partial().text
      if (!over && text.startsWith(before)) {
        answer.onText(text.slice(before.length))
        over = true
      }
      if (over) {
        answer.finishReason = string(value["status"]) ?? "succeeded"
        last = true
      }
    }
  }

  const onDone = (value: Json) => {
    const reason = string(value["reason"])?.toLowerCase()
    over = true
    if (reason === "error" || reason === "failed") ending = "error"
    else if (reason === "canceled" || reason === "cancelled" || reason === "aborted") ending = "canceled"
    answer.finishReason ??= reason ?? "succeeded"
  }

  const onError = (data: string, value: unknown) => {
    const envelope = value === undefined ? envelopeOfBody(data, undefined) : words(value)
    answer.fail(failureOf(envelope, answer.place(true)))
  }

  const onEvent = (event: string, data: string, raw: boolean, complete: boolean) => {
    if (answer.failure !== undefined || last) return
    events += 1
    if (raw) {
      const value = Sse.parse(data)
      if (isPrediction(value)) return onPrediction(value, true)
      if (complete || value !== undefined) answer.fail(notPrediction(value, data, answer.place(events > 1)))
      return
    }
    // Of a piece that was cut short the beginning is shown, as of the answer; an end that was cut short is none.
    if (event === "output") {
      if (!over) answer.onText(data)
      return
    }
    const value = Sse.parse(data)
    if (event === "done") {
      if (!over && isRecord(value)) onDone(value)
    } else if (event === "error") {
      if (!over && (complete || value !== undefined)) onError(data, value)
    } else if (event === predictionEvent) {
      if (isPrediction(value)) onPrediction(value, false)
    } else if (event === "" && !over) {
      const envelope = envelopeOf(value, false)
      if (envelope !== undefined) answer.fail(failureOf(envelope, answer.place(true)))
    }
  }

  const reader = Sse.make({ onEvent })

  const conclude = () => {
    if (over && ending === "error") {
      answer.fail(failureOf(words(undefined), answer.place(true)))
    } else if (over && ending === "canceled") answer.fail(canceled(answer.place(true)))
    else if (over) answer.finish("stop")
    else if (events === 0 && reader.hasJunk()) {
      answer.failBecause("MalformedResponse", { midStream: false, issue: "the body is not a stream of events" })
    } else answer.failBecause("StreamTruncated")
  }

  const decoder = StreamDecoders.make(answer, context, {
    read: reader.push,
    readEnd: reader.end,
    over: () => last,
    conclude,
    finished: () => over,
    whole: () => over && ending === undefined
  })
  return {
    ...decoder,
    broken: (cause) => {
      if (answer.failure === undefined && over && ending !== undefined) conclude()
      // Before anything of the answer came, what happened is better told by the error itself: no prediction was made, or
      // it cannot be looked at.
      const untouched = events === 0 || (cause.reason !== "Network" && !answer.hadContent)
      if (untouched && !over) answer.fail(cause)
      return decoder.broken(cause)
    }
  }
}

/**
 * The format as a `Protocol`, for one model's input.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (dialect: Dialect): Protocol => ({
  encode: (request, options) => encode(request, { ...options, dialect }),
  decode,
  makeStreamDecoder
})
