/**
 * Prompts of `@effect/ai` as messages, and the assistant's parts of messages as those of a prompt.
 *
 * What only one provider understands travels in the options of a part, under the provider's name: `signature` and `id`, or
 * `part` for a whole part of the provider's own.
 */
import * as Prompt from "@effect/ai/Prompt"
import type {
  AssistantPart,
  ChatMessage,
  FilePart,
  ProviderPart,
  ToolResultPart
} from "@underlay/core/state/ChatMessage"
import * as Either from "effect/Either"
import * as Encoding from "effect/Encoding"
import type { PromptCache } from "../LlmRequest.ts"
import { isRecord } from "./classify.ts"
import { type Json, string } from "./wire.ts"

type Options = Prompt.ProviderOptions

/** Something in a prompt that cannot be sent: where it is, and why. */
export interface Unfit {
  readonly at: string
  readonly why: string
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

/** How images begin, for those of which it is only said that they are images. */
const beginnings: ReadonlyArray<readonly [mediaType: string, at: number, bytes: ReadonlyArray<number>]> = [
  ["image/png", 0, [0x89, 0x50, 0x4e, 0x47]],
  ["image/gif", 0, [0x47, 0x49, 0x46, 0x38]],
  ["image/webp", 8, [0x57, 0x45, 0x42, 0x50]],
  ["image/jpeg", 0, [0xff, 0xd8, 0xff]]
]

const imageOf = (bytes: Uint8Array): string =>
  beginnings.find(([, at, begins]) => begins.every((byte, index) => bytes[at + index] === byte))?.[0] ?? "image/jpeg"

const endings: Readonly<Record<string, string>> = { png: "image/png", gif: "image/gif", webp: "image/webp" }

const imageAt = (url: string): string =>
  endings[/\.(\w+)(?:[?#]|$)/.exec(url)?.[1]?.toLowerCase() ?? ""] ?? "image/jpeg"

/** An address, or the id that a provider gave to a file that it has: `file-…`, `file_…`, `files/…`. */
const isAddress = (data: string): boolean => /^[a-z][a-z0-9+.-]*:\S/i.test(data) || /^files?[-_/][\w-]+$/.test(data)

// A long text that only begins like one is looked through once.
const encoded = /^data:([^;,]*)(?:;[^,]*)?;base64,/i

const fileOf = (part: Prompt.FilePart): Either.Either<FilePart, string> => {
  const { data } = part
  const named = part.fileName === undefined ? {} : { name: part.fileName }
  const anyImage = part.mediaType === "image/*"
  const ofBytes = (bytes: Uint8Array, mediaType: string = part.mediaType): FilePart => ({
    type: "file",
    mediaType: mediaType === "image/*" ? imageOf(bytes) : mediaType,
    ...named,
    source: { type: "bytes", bytes }
  })
  if (data instanceof Uint8Array) return Either.right(ofBytes(data))
  const text = typeof data === "string" ? data : data.href
  const inline = encoded.exec(text)
  if (inline === null && (typeof data !== "string" || isAddress(text))) {
    const mediaType = anyImage ? imageAt(text) : part.mediaType
    return Either.right({ type: "file", mediaType, ...named, source: { type: "url", url: text } })
  }
  const base64 = inline === null ? text : text.slice(inline[0].length)
  return Either.mapBoth(Encoding.decodeBase64(base64), {
    onLeft: () => "the data of a file is bytes, an address, or base64",
    onRight: (bytes) => ofBytes(bytes, anyImage ? (string(inline?.[1]) ?? part.mediaType) : part.mediaType)
  })
}

// ---------------------------------------------------------------------------------------------------------------------
// What providers want to see again
// ---------------------------------------------------------------------------------------------------------------------

interface Provenance {
  readonly provider: string
  readonly signature: string | undefined
  readonly id: string | undefined
  readonly part: unknown
}

/**
 * The proof that a part carries. The packages of `@effect/ai` for OpenAI, Anthropic and Google have names of their own for
 * the same things: conversations that were kept with them can go on here.
 */
const provenanceOf = (options: Options): Provenance | undefined => {
  for (const [provider, said] of Object.entries(options)) {
    if (said === undefined || said === null) continue
    const signature = string(said["signature"]) ?? string(said["encryptedContent"]) ?? string(said["thoughtSignature"])
    const id = string(said["id"]) ?? string(said["itemId"])
    const redacted = string(said["redactedData"])
    const part = said["part"] ?? (redacted === undefined ? undefined : { type: "redacted_thinking", data: redacted })
    if (signature !== undefined || id !== undefined || part !== undefined) return { provider, signature, id, part }
  }
  return undefined
}

const signed = (proof: Provenance | undefined) =>
  proof?.signature === undefined ? {} : { signature: proof.signature, provider: proof.provider }

/** The options of a part that says what its provider wants to see again. */
export const optionsOf = (part: {
  readonly provider?: string | undefined
  readonly signature?: string | undefined
  readonly id?: string | undefined
}): Record<string, Json> | undefined => {
  const { id, provider, signature } = part
  if (provider === undefined || (signature === undefined && id === undefined)) return undefined
  return {
    [provider]: { ...(signature === undefined ? {} : { signature }), ...(id === undefined ? {} : { id }) }
  }
}

/** A part that only its provider understands stands in an empty reasoning, which every other provider leaves out. */
export const optionsOfProviderPart = (part: ProviderPart): Record<string, Json> => ({
  [part.provider]: { part: part.data }
})

const toPromptPart = (part: AssistantPart): Prompt.AssistantMessagePart => {
  switch (part.type) {
    case "text":
      return Prompt.textPart({ text: part.text, ...given(optionsOf(part)) })
    case "reasoning":
      return Prompt.reasoningPart({ text: part.text, ...given(optionsOf(part)) })
    case "tool-call": {
      const { arguments: params, id, name, provider, signature } = part
      const options = given(optionsOf({ provider, signature }))
      return Prompt.toolCallPart({ id, name, params, providerExecuted: false, ...options })
    }
    case "provider":
      return Prompt.reasoningPart({ text: "", options: optionsOfProviderPart(part) })
  }
}

/** The assistant's parts as those of a prompt. */
export const toPromptParts = (content: ReadonlyArray<AssistantPart>): ReadonlyArray<Prompt.AssistantMessagePart> =>
  content.map(toPromptPart)

const given = (options: Record<string, Json> | undefined) => (options === undefined ? {} : { options })

// ---------------------------------------------------------------------------------------------------------------------
// Messages
// ---------------------------------------------------------------------------------------------------------------------

const resultOf = (part: Prompt.ToolResultPart): ToolResultPart => ({
  type: "tool-result",
  id: part.id,
  name: part.name,
  result: part.result,
  ...(part.isFailure ? { isError: true } : {})
})

/** A part of what the model said; `undefined` for what its provider did by itself and did not leave in its own words. */
const assistantPartOf = (
  part: Exclude<Prompt.AssistantMessagePart, Prompt.FilePart | Prompt.ToolResultPart>
): AssistantPart | undefined => {
  const proof = provenanceOf(part.options)
  if (proof?.part !== undefined) return { type: "provider", provider: proof.provider, data: proof.part }
  switch (part.type) {
    case "text":
      return { type: "text", text: part.text, ...signed(proof) }
    case "reasoning": {
      if (part.text === "" && proof === undefined) return undefined
      const named = proof?.id === undefined ? {} : { id: proof.id, provider: proof.provider }
      return { type: "reasoning", text: part.text, ...named, ...signed(proof) }
    }
    case "tool-call":
      return part.providerExecuted
        ? undefined
        : { type: "tool-call", id: part.id, name: part.name, arguments: part.params, ...signed(proof) }
  }
}

/**
 * Whole answers, by the arguments of their calls. `@effect/ai` makes a prompt of an answer by its texts and calls alone, and
 * its `Chat` always does: the arguments as the tool took them are the one thing that is still the very same object. By it
 * the answer is found again as it was, without knowing whose conversation it is, and nothing is kept that nobody else keeps.
 */
const answers = new WeakMap<object, ReadonlyArray<AssistantPart>>()

/** Keeps an answer for as long as the arguments of its calls are kept. */
export const remember = (
  calls: ReadonlyArray<{ readonly params: unknown }>,
  content: ReadonlyArray<AssistantPart>
): void => {
  if (content.length === 0) return
  for (const { params } of calls) if (typeof params === "object" && params !== null) answers.set(params, content)
}

const textOf = (parts: ReadonlyArray<{ readonly type: string; readonly text?: string }>): string =>
  parts.map((part) => (part.type === "text" ? (part.text ?? "") : "")).join("")

/** The answer that a message was made of, if it was left as it was. */
const answerOf = (message: Prompt.AssistantMessage): ReadonlyArray<AssistantPart> | undefined => {
  const calls = message.content.filter((part) => part.type === "tool-call" && !part.providerExecuted)
  const found = calls.map((call) =>
    call.type === "tool-call" && typeof call.params === "object" && call.params !== null
      ? answers.get(call.params)
      : undefined
  )
  const [content] = found
  if (content === undefined || found.some((each) => each !== content)) return undefined
  const made = content.filter((part) => part.type === "tool-call")
  const isSame = made.length === calls.length && made.every((call, index) => same(call, calls[index]))
  return isSame && textOf(content) === textOf(message.content) ? content : undefined
}

const same = (call: AssistantPart, part: Prompt.AssistantMessagePart | undefined): boolean =>
  call.type === "tool-call" && part?.type === "tool-call" && call.id === part.id && call.name === part.name

/** The messages of an assistant's one: results of tools that stand in it are messages of their own. */
const assistantOf = (
  message: Prompt.AssistantMessage,
  at: string
): Either.Either<ReadonlyArray<ChatMessage>, Unfit> => {
  const answer = answerOf(message)
  if (answer !== undefined) {
    const content = message.content.flatMap((part) =>
      part.type === "tool-result" && !part.providerExecuted ? [resultOf(part)] : []
    )
    const whole: ChatMessage = { role: "assistant", content: answer }
    return Either.right(content.length === 0 ? [whole] : [whole, { role: "tool", content }])
  }
  const messages: Array<ChatMessage> = []
  let said: Array<AssistantPart> = []
  let results: Array<ToolResultPart> = []
  const flush = () => {
    if (said.length > 0) messages.push({ role: "assistant", content: said })
    if (results.length > 0) messages.push({ role: "tool", content: results })
    said = []
    results = []
  }
  for (const [index, part] of message.content.entries()) {
    const proof = provenanceOf(part.options)
    if (part.type === "tool-result") {
      if (part.providerExecuted) continue
      results.push(resultOf(part))
      continue
    }
    if (part.type === "file" && proof?.part === undefined) {
      return Either.left({ at: `${at}.content[${index}]`, why: "a file that the model made cannot be sent back" })
    }
    const one =
      part.type === "file"
        ? ({ type: "provider", provider: proof?.provider ?? "", data: proof?.part } as const)
        : assistantPartOf(part)
    if (one === undefined) continue
    if (results.length > 0) flush()
    said.push(one)
  }
  flush()
  return Either.right(messages)
}

/** The mark that `@effect/ai`'s package for Anthropic has for a beginning that is worth keeping. */
const cacheMarkOf = (options: Options): Json | undefined => {
  for (const said of Object.values(options)) {
    const mark = said?.["cacheControl"]
    if (isRecord(mark)) return mark
  }
  return undefined
}

const markOf = (message: Prompt.Message): Json | undefined => {
  const own = cacheMarkOf(message.options)
  if (own !== undefined || message.role === "system") return own
  for (const part of message.content) {
    const mark = cacheMarkOf(part.options)
    if (mark !== undefined) return mark
  }
  return undefined
}

/** What a prompt asks for. */
export interface Conversation {
  readonly messages: ReadonlyArray<ChatMessage>
  readonly promptCache: PromptCache | undefined
}

/** A prompt as messages. */
export const fromPrompt = (prompt: Prompt.Prompt): Either.Either<Conversation, Unfit> => {
  const messages: Array<ChatMessage> = []
  const breakpoints: Array<number> = []
  let long = false
  for (const [index, message] of prompt.content.entries()) {
    const at = `messages[${index}]`
    switch (message.role) {
      case "system":
        messages.push({ role: "system", content: message.content })
        break
      case "user": {
        const content: Array<Extract<ChatMessage, { readonly role: "user" }>["content"][number]> = []
        for (const [place, part] of message.content.entries()) {
          if (part.type === "text") {
            content.push({ type: "text", text: part.text })
            continue
          }
          const file = fileOf(part)
          if (Either.isLeft(file)) return Either.left({ at: `${at}.content[${place}]`, why: file.left })
          content.push(file.right)
        }
        messages.push({ role: "user", content })
        break
      }
      case "assistant": {
        const said = assistantOf(message, at)
        if (Either.isLeft(said)) return Either.left(said.left)
        messages.push(...said.right)
        break
      }
      case "tool": {
        const content = message.content.filter((part) => !part.providerExecuted).map(resultOf)
        if (content.length > 0) messages.push({ role: "tool", content })
        break
      }
    }
    const mark = markOf(message)
    if (mark !== undefined && messages.length > 0) {
      breakpoints.push(messages.length - 1)
      long ||= mark["ttl"] === "1h"
    }
  }
  const promptCache = breakpoints.length === 0 ? undefined : { breakpoints, ...(long ? { ttl: "long" as const } : {}) }
  return Either.right({ messages, promptCache })
}
