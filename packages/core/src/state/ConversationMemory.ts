/**
 * The chat history of a session: messages in order, trimmed by tokens without tearing a tool call from its result, with
 * a slot for a summary of what was trimmed. A port of the internal plane: nothing is emitted per operation.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { ExpiringMap } from "../internal/expiringMap.ts"
import * as PlainJson from "../internal/plainJson.ts"
import * as Ttl from "../internal/ttl.ts"
import { ChatMessage } from "./ChatMessage.ts"

/**
 * Why a memory could not do what it was asked.
 *
 * - `InvalidId`, `InvalidMessage`, `InvalidOptions`: the argument cannot be accepted; nothing was sent.
 * - `Conflict`: a trim met other trims on every one of its attempts.
 * - `Unavailable`, `Timeout`: the store cannot be reached, or did not answer in time.
 * - `Rejected`: the store answered with a refusal.
 *
 * @since 0.1.0
 * @category schemas
 */
export const Reason = Schema.Literal(
  "InvalidId",
  "InvalidMessage",
  "InvalidOptions",
  "Conflict",
  "Unavailable",
  "Timeout",
  "Rejected"
)

/**
 * @since 0.1.0
 * @category models
 */
export type Reason = typeof Reason.Type

/**
 * A failure of a conversation memory. `outcome` says whether the operation can have taken effect. The message never
 * holds an id or what was said.
 *
 * @since 0.1.0
 * @category errors
 */
export class ConversationMemoryError extends Schema.TaggedError<ConversationMemoryError>(
  "@underlay/core/state/ConversationMemoryError"
)("ConversationMemoryError", {
  reason: Reason,
  method: Schema.String,
  description: Schema.String,
  outcome: Schema.Literal("not-done", "unknown"),
  cause: Schema.optionalWith(Schema.Defect, { exact: true })
}) {
  override get message(): string {
    const unknown = this.outcome === "unknown" ? " (it may have been done)" : ""
    return `ConversationMemory.${this.method}: ${this.description}${unknown}`
  }

  /** Whether the same call can be made again. An `append` whose outcome is unknown cannot: it could say things twice. */
  get isRetryable(): boolean {
    if (this.reason === "Conflict") return true
    if (this.reason !== "Unavailable" && this.reason !== "Timeout") return false
    return this.outcome === "not-done" || this.method !== "append"
  }
}

/**
 * How many tokens a message takes.
 *
 * @since 0.1.0
 * @category models
 */
export type Count = (message: ChatMessage) => number

/**
 * What to trim a conversation to.
 *
 * @since 0.1.0
 * @category models
 */
export interface TrimOptions {
  readonly maxTokens: number
  /** Default: `approximateTokens`. */
  readonly count?: Count | undefined
}

/**
 * What a trim did: `kept` and `dropped` in their order, and the tokens that `kept` takes. `kept` can take more than was
 * asked for only where system messages alone do: they are never dropped.
 *
 * @since 0.1.0
 * @category models
 */
export interface Trimmed {
  readonly kept: ReadonlyArray<ChatMessage>
  readonly dropped: ReadonlyArray<ChatMessage>
  readonly tokens: number
}

/**
 * What a conversation memory does. Everything that touches a conversation starts its time to live anew.
 *
 * @since 0.1.0
 * @category models
 */
export interface Service {
  /** Adds messages at the end, all or none, and gives the number of messages kept. */
  readonly append: (
    conversation: string,
    messages: ReadonlyArray<ChatMessage>
  ) => Effect.Effect<number, ConversationMemoryError>
  /**
   * The last `limit` messages (all, unless given), oldest first. Fewer where the cut would show a tool's result without
   * the call that asked for it.
   */
  readonly recent: (
    conversation: string,
    limit?: number
  ) => Effect.Effect<ReadonlyArray<ChatMessage>, ConversationMemoryError>
  /**
   * Drops the oldest messages until the rest fits, calls and their results together, system messages never. A result
   * whose call is gone already is neither `kept` nor `dropped`.
   */
  readonly trim: (conversation: string, options: TrimOptions) => Effect.Effect<Trimmed, ConversationMemoryError>
  /** The summary of what was said before the messages that are kept. */
  readonly summary: (conversation: string) => Effect.Effect<Option.Option<string>, ConversationMemoryError>
  readonly setSummary: (conversation: string, summary: string) => Effect.Effect<void, ConversationMemoryError>
  /** Forgets a conversation and its summary; says whether there was something to forget. */
  readonly clear: (conversation: string) => Effect.Effect<boolean, ConversationMemoryError>
}

/**
 * The conversation memory of an application.
 *
 * @since 0.1.0
 * @category tags
 */
export class ConversationMemory extends Context.Tag("@underlay/core/ConversationMemory")<
  ConversationMemory,
  Service
>() {}

/**
 * Options of every conversation memory.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options {
  /** How long a conversation lives after it was last touched. Default: 30 minutes. */
  readonly ttl?: Duration.DurationInput | undefined
  /** Messages that are kept of a conversation; the oldest go first. Default: 1,000. */
  readonly maxMessages?: number | undefined
}

/**
 * What an adapter stores: lists of texts by id, and one text beside each. `make` builds the port on it. Times are whole
 * milliseconds; every operation but `clear` sets the time to live of both.
 *
 * @since 0.1.0
 * @category models
 */
export interface Backend {
  /** Adds at the end, keeps the last `maximum` and gives their number. */
  readonly append: (
    id: string,
    texts: ReadonlyArray<string>,
    maximum: number,
    ttl: number
  ) => Effect.Effect<number, ConversationMemoryError>
  /** The last `limit` texts, all when undefined. */
  readonly recent: (
    id: string,
    limit: number | undefined,
    ttl: number
  ) => Effect.Effect<ReadonlyArray<string>, ConversationMemoryError>
  /**
   * Replaces the texts of `from`, which must be the first ones still, by `to`; what was added after them stays. False
   * when they are not.
   */
  readonly replaceHead: (
    id: string,
    from: ReadonlyArray<string>,
    to: ReadonlyArray<string>,
    ttl: number
  ) => Effect.Effect<boolean, ConversationMemoryError>
  readonly summary: (id: string, ttl: number) => Effect.Effect<string | undefined, ConversationMemoryError>
  readonly setSummary: (id: string, summary: string, ttl: number) => Effect.Effect<void, ConversationMemoryError>
  readonly clear: (id: string) => Effect.Effect<boolean, ConversationMemoryError>
}

/**
 * A rough number of tokens: one for four characters of text, rounded up, and four for the message itself. For trimming
 * where no tokenizer is at hand; it is not what a provider bills.
 *
 * @since 0.1.0
 * @category combinators
 */
export const approximateTokens: Count = (message) => {
  if (message.role === "system") return 4 + Math.ceil(message.content.length / 4)
  let characters = 0
  for (const part of message.content) {
    switch (part.type) {
      case "text":
      case "reasoning":
        characters += part.text.length
        break
      case "tool-call":
        characters += part.name.length + textLength(part.arguments)
        break
      case "tool-result":
        characters += part.name.length + textLength(part.result)
        break
      case "file":
        // what providers take for an image of common size; bytes have no text
        characters += 4_000
        break
    }
  }
  return 4 + Math.ceil(characters / 4)
}

/**
 * Cuts a conversation into what must stay together: a model's message with the results of the tools it asked for, or a
 * single message. A result whose call is not there is a unit without a call.
 *
 * @since 0.1.0
 * @category combinators
 */
export const units = (messages: ReadonlyArray<ChatMessage>): ReadonlyArray<ReadonlyArray<ChatMessage>> => {
  const all: Array<Array<ChatMessage>> = []
  const unitOfCall = new Map<string, Array<ChatMessage>>()
  for (const message of messages) {
    if (message.role === "tool") {
      const home = message.content.map((part) => unitOfCall.get(part.id)).find((unit) => unit !== undefined)
      if (home !== undefined && home === all.at(-1)) {
        home.push(message)
        continue
      }
      if (home !== undefined) {
        // something was said between the call and its result: all of it stays together
        const first = all.indexOf(home)
        for (const unit of all.splice(first + 1)) {
          home.push(...unit)
          for (const moved of unit) for (const id of callsOf(moved)) unitOfCall.set(id, home)
        }
        home.push(message)
        continue
      }
    }
    const unit = [message]
    all.push(unit)
    for (const id of callsOf(message)) unitOfCall.set(id, unit)
  }
  return all
}

/**
 * Trims messages to a number of tokens: the newest units that fit without a gap, and every system message. Pure; the
 * memory's `trim` is this over what is stored.
 *
 * @since 0.1.0
 * @category combinators
 */
export const trimMessages = (messages: ReadonlyArray<ChatMessage>, options: TrimOptions): Trimmed => {
  const count = options.count ?? approximateTokens
  const all = units(messages)
  let tokens = 0
  for (const message of messages) if (message.role === "system") tokens += count(message)
  let first = all.length
  for (let index = all.length - 1; index >= 0; index--) {
    let size = 0
    for (const message of all[index] ?? []) if (message.role !== "system") size += count(message)
    if (tokens + size > options.maxTokens) break
    tokens += size
    first = index
  }
  const kept: Array<ChatMessage> = []
  const dropped: Array<ChatMessage> = []
  all.forEach((unit, index) => {
    for (const message of unit) (index >= first || message.role === "system" ? kept : dropped).push(message)
  })
  return { kept, dropped, tokens }
}

/**
 * Builds the port on a backend: checks arguments, encodes and decodes messages, and trims. A stored text that is no
 * message is left out, with one warning a conversation.
 *
 * @since 0.1.0
 * @category constructors
 */
export const make = (backend: Backend, options: Options = {}): Effect.Effect<Service, ConversationMemoryError> =>
  Effect.gen(function* () {
    const decodedTtl = Ttl.millis(options.ttl ?? "30 minutes")
    if (Either.isLeft(decodedTtl)) return yield* failure("InvalidOptions", "make", decodedTtl.left)
    const ttl = decodedTtl.right
    const maximum = options.maxMessages ?? 1_000
    if (!(Number.isInteger(maximum) && maximum > 0)) {
      return yield* failure("InvalidOptions", "make", "the greatest number of messages must be a positive integer")
    }
    const warned = new Set<string>()

    const decode = (id: string, texts: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<Stored>> => {
      const messages: Array<Stored> = []
      let corrupt = 0
      for (const text of texts) {
        const message = decodeMessage(text)
        if (Either.isRight(message)) messages.push([text, message.right])
        else corrupt++
      }
      if (corrupt === 0 || warned.has(id)) return Effect.succeed(messages)
      if (warned.size >= 1_000) warned.clear()
      warned.add(id)
      return Effect.as(
        Effect.logWarning("stored messages of a conversation are corrupt and left out", {
          conversation: `${id.slice(0, 4)}…`,
          corrupt
        }),
        messages
      )
    }

    const withId = <A>(
      method: string,
      id: string,
      f: () => Effect.Effect<A, ConversationMemoryError>
    ): Effect.Effect<A, ConversationMemoryError> => {
      const problem = idProblem(id)
      return problem === undefined ? f() : failure("InvalidId", method, problem)
    }

    const trim = (id: string, options: TrimOptions, left: number): Effect.Effect<Trimmed, ConversationMemoryError> =>
      Effect.flatMap(backend.recent(id, undefined, ttl), (texts) =>
        Effect.flatMap(decode(id, texts), (pairs) => {
          const shown = withoutOrphans(pairs)
          const trimmed = trimMessages(shown.map(messageOf), options)
          if (trimmed.dropped.length === 0) return Effect.succeed(trimmed)
          const textOf = new Map(shown.map(([text, message]) => [message, text]))
          const head = trimmed.kept.map((message) => textOf.get(message)).filter((text) => text !== undefined)
          return Effect.flatMap(backend.replaceHead(id, texts, head, ttl), (replaced) => {
            if (replaced) return Effect.succeed(trimmed)
            return left > 1
              ? trim(id, options, left - 1)
              : failure("Conflict", "trim", "other trims of the conversation came first each time")
          })
        })
      )

    return {
      append: (id, messages) =>
        withId("append", id, () => {
          const texts: Array<string> = []
          for (const message of messages) {
            const text = encodeMessage(message)
            if (Either.isLeft(text)) return failure("InvalidMessage", "append", text.left)
            texts.push(text.right)
          }
          // what would go again at once need not be sent
          return backend.append(id, texts.length > maximum ? texts.slice(-maximum) : texts, maximum, ttl)
        }),
      recent: (id, limit) =>
        withId("recent", id, () => {
          if (limit !== undefined && !(Number.isInteger(limit) && limit >= 0)) {
            return failure("InvalidOptions", "recent", "the number of messages must be a whole number")
          }
          if (limit === 0) return Effect.succeed([])
          return Effect.flatMap(backend.recent(id, limit, ttl), (texts) =>
            Effect.map(decode(id, texts), (pairs) => withoutOrphans(pairs).map(messageOf))
          )
        }),
      trim: (id, options) =>
        withId("trim", id, () =>
          options.maxTokens >= 0
            ? trim(id, options, 16)
            : failure("InvalidOptions", "trim", "the number of tokens cannot be negative")
        ),
      summary: (id) => withId("summary", id, () => Effect.map(backend.summary(id, ttl), Option.fromNullable)),
      setSummary: (id, summary) => withId("setSummary", id, () => backend.setSummary(id, summary, ttl)),
      clear: (id) => withId("clear", id, () => backend.clear(id))
    }
  })

/**
 * Options of the memory inside this process.
 *
 * @since 0.1.0
 * @category models
 */
export interface MemoryOptions extends Options {
  /** Conversations that are kept; the one touched least recently goes first. Default: 10,000. */
  readonly capacity?: number | undefined
}

/**
 * A conversation memory inside this process, by `Clock`.
 *
 * @since 0.1.0
 * @category layers
 */
export const layerMemory: {
  (): Layer.Layer<ConversationMemory>
  (options: MemoryOptions): Layer.Layer<ConversationMemory, ConversationMemoryError>
} = (options: MemoryOptions = {}): Layer.Layer<ConversationMemory> =>
  // options that are absent cannot be wrong: the first signature has no error for that reason
  Layer.effect(
    ConversationMemory,
    Effect.flatMap(memoryBackend(options.capacity ?? 10_000), (backend) => make(backend, options))
  ) as Layer.Layer<ConversationMemory>

const memoryBackend = (capacity: number): Effect.Effect<Backend> =>
  Effect.sync(() => {
    interface Conversation {
      texts: Array<string>
      summary: string | undefined
    }
    const conversations = new ExpiringMap<Conversation>(capacity)
    const touched = <A>(id: string, ttl: number, f: (stored: Conversation | undefined) => A): Effect.Effect<A> =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        conversations.expireAt(id, now + ttl, now)
        return f(conversations.get(id, now))
      })
    const made = <A>(id: string, ttl: number, f: (stored: Conversation) => A): Effect.Effect<A> =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        const stored = conversations.get(id, now) ?? { texts: [], summary: undefined }
        conversations.set(id, stored, now + ttl, now)
        return f(stored)
      })
    return {
      append: (id, texts, maximum, ttl) => {
        const add = (stored: Conversation): number => {
          for (const text of texts) stored.texts.push(text)
          if (stored.texts.length > maximum) stored.texts.splice(0, stored.texts.length - maximum)
          return stored.texts.length
        }
        // nothing to add makes no conversation
        return texts.length === 0
          ? touched(id, ttl, (stored) => (stored === undefined ? 0 : add(stored)))
          : made(id, ttl, add)
      },
      recent: (id, limit, ttl) =>
        touched(id, ttl, (stored) => {
          const texts = stored?.texts ?? []
          return limit === undefined ? texts.slice() : texts.slice(Math.max(0, texts.length - limit))
        }),
      replaceHead: (id, from, to, ttl) =>
        touched(id, ttl, (stored) => {
          if (stored === undefined || from.some((text, index) => stored.texts[index] !== text)) return false
          stored.texts.splice(0, from.length, ...to)
          return true
        }),
      summary: (id, ttl) => touched(id, ttl, (stored) => stored?.summary),
      setSummary: (id, summary, ttl) =>
        made(id, ttl, (stored) => {
          stored.summary = summary
        }),
      clear: (id) => Effect.map(Clock.currentTimeMillis, (now) => conversations.delete(id, now))
    }
  })

const messageText = Schema.parseJson(ChatMessage)
const decodeMessage = Schema.decodeUnknownEither(messageText)
const encodeEither = Schema.encodeEither(ChatMessage)

const encodeMessage = (message: ChatMessage): Either.Either<string, string> => {
  const encoded = encodeEither(message)
  if (Either.isLeft(encoded)) return Either.left("a message is not of the shape of a chat message")
  const problem = PlainJson.problemOf(encoded.right)
  return problem === undefined
    ? Either.right(JSON.stringify(encoded.right))
    : Either.left(`a message holds what JSON does not have: ${problem}`)
}

/** A message, and the text that it is kept as. */
type Stored = readonly [text: string, message: ChatMessage]

const messageOf = ([, message]: Stored): ChatMessage => message

const callsOf = (message: ChatMessage): ReadonlyArray<string> =>
  message.role === "assistant" ? message.content.flatMap((part) => (part.type === "tool-call" ? [part.id] : [])) : []

/** Drops results whose call is not among the messages: the cut of `recent` or of the maximum fell between them. */
const withoutOrphans = (messages: ReadonlyArray<Stored>): ReadonlyArray<Stored> => {
  const calls = new Set<string>()
  return messages.flatMap((stored): ReadonlyArray<Stored> => {
    const [text, message] = stored
    if (message.role === "tool") {
      const content = message.content.filter((part) => calls.has(part.id))
      if (content.length === message.content.length && content.length > 0) return [stored]
      return content.length === 0 ? [] : [[text, { ...message, content }]]
    }
    for (const id of callsOf(message)) calls.add(id)
    return [stored]
  })
}

const textLength = (value: unknown): number => (JSON.stringify(value) ?? "").length

const idProblem = (id: string): string | undefined => {
  if (id.length === 0) return "a conversation id cannot be empty"
  if (id.length > 512) return "a conversation id cannot be longer than 512 characters"
  // two of these would be one key where ids are kept as UTF-8
  if (loneSurrogate.test(id)) return "a conversation id must be well-formed Unicode"
  // braces would move a conversation's companions to another slot of a cluster
  return forbiddenInId.test(id) ? "a conversation id cannot hold control characters, { or }" : undefined
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is refused
const forbiddenInId = /[\u0000-\u001f\u007f{}]/

const loneSurrogate = /\p{Surrogate}/u

const failure = (reason: Reason, method: string, description: string): Effect.Effect<never, ConversationMemoryError> =>
  Effect.fail(new ConversationMemoryError({ reason, method, description, outcome: "not-done" }))
