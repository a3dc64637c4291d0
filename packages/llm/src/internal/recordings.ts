/**
 * What recorded traffic is, told from its address or its body: which wire format it speaks, where the events of a streamed
 * body end, and where the word stands with which the stream says that it is whole. Reads no more of a format than that, so
 * that the decoders can be judged by it.
 */
import { isRecord } from "./classify.ts"
import { parse } from "./sse.ts"
import type { Json } from "./wire.ts"

/** A wire format, with what is asked of it where that changes the answer's shape. */
export type Format =
  | "chat-completions"
  | "responses"
  | "responses-count"
  | "messages"
  | "messages-count"
  | "gemini"
  | "gemini-count"
  | "gemini-embeddings"
  | "ollama"
  | "ollama-embeddings"
  | "openai-embeddings"
  | "feature-extraction"
  | "replicate"

/** The end of a path, most particular first. */
const paths: ReadonlyArray<readonly [RegExp, Format]> = [
  [/(?:^|\/)responses\/input_tokens$/, "responses-count"],
  [/(?:^|\/)messages\/count_tokens$/, "messages-count"],
  [/(?:^|[/:])counttokens$/, "gemini-count"],
  [/(?:^|[/:])(?:batch)?embedcontents?$/, "gemini-embeddings"],
  [/(?:^|[/:])(?:stream)?generatecontent$/, "gemini"],
  [/(?:^|\/)(?:chat\/)?completions$/, "chat-completions"],
  [/(?:^|\/)responses(?:\/[^/]+)?$/, "responses"],
  [/(?:^|\/)messages$/, "messages"],
  [/(?:^|\/)api\/(?:chat|generate)$/, "ollama"],
  [/(?:^|\/)api\/embed(?:dings)?$/, "ollama-embeddings"],
  [/(?:^|\/)(?:pipeline\/)?feature-extraction(?:\/|$)|\/pipeline\/feature-extraction$/, "feature-extraction"],
  [/(?:^|\/)embeddings$/, "openai-embeddings"],
  [/(?:^|\/)predictions(?:\/[^/]+)?$/, "replicate"]
]

const ofPath = (address: string): Format | undefined => {
  const path = address
    .replace(/^[a-z]+:\/\/[^/]*/i, "")
    .replace(/[?#].*$/s, "")
    .replace(/\/+$/, "")
    .toLowerCase()
  return paths.find(([pattern]) => pattern.test(path))?.[1]
}

const isList = Array.isArray

const isVector = (value: unknown): boolean => isList(value) && value.length > 0 && typeof value[0] === "number"

/** The format of which a JSON value is an answer, or a piece of a streamed one. */
const ofValue = (value: unknown): Format | undefined => {
  if (isList(value)) {
    const first: unknown = value[0]
    if (isRecord(first)) return ofValue(first)
    return isVector(value) || isVector(first) || (isList(first) && isVector(first[0]))
      ? "feature-extraction"
      : undefined
  }
  if (!isRecord(value)) return undefined
  const { object, type } = value
  if (isList(value["choices"])) return "chat-completions"
  if (object === "response.input_tokens") return "responses-count"
  if (object === "response" || (typeof type === "string" && type.startsWith("response."))) return "responses"
  if (typeof type === "string" && /^(?:message|message_(?:start|delta|stop)|content_block_.*|ping)$/.test(type)) {
    return "messages"
  }
  if (value["candidates"] !== undefined || value["promptFeedback"] !== undefined || "usageMetadata" in value) {
    return "gemini"
  }
  if (typeof value["totalTokens"] === "number") return "gemini-count"
  if (typeof value["done"] === "boolean" && (isRecord(value["message"]) || typeof value["response"] === "string")) {
    return "ollama"
  }
  const { data, embedding, embeddings } = value
  if (isList(data) && isRecord(data[0]) && data[0]["embedding"] !== undefined) return "openai-embeddings"
  if (isRecord(embedding) || (isList(embeddings) && isRecord(embeddings[0]))) return "gemini-embeddings"
  if (isVector(embedding) || (isList(embeddings) && isVector(embeddings[0]))) return "ollama-embeddings"
  if (isRecord(value["urls"]) && typeof value["status"] === "string") return "replicate"
  const names = Object.keys(value)
  return names.length === 1 && names[0] === "input_tokens" ? "messages-count" : undefined
}

/** The format of an exchange: by the name of what was asked, else by its address, else by what the body looks like. */
export const formatOf = (api: string, url: string | undefined, body: string): Format | undefined => {
  const known = ofPath(api) ?? (url === undefined ? undefined : ofPath(url))
  if (known !== undefined) return known
  const whole = ofValue(parse(body))
  if (whole !== undefined) return whole
  for (const event of eventsOf(body)) {
    const format = ofValue(parse(event.data))
    if (format !== undefined) return format
  }
  return undefined
}

/** One event of a streamed body: its data, where the data ends, and where what ends the event has been said. In characters. */
export interface StreamedEvent {
  readonly name: string
  readonly data: string
  readonly dataEnd: number
  readonly end: number
}

const lineOf = /([^\r\n]*)(\r\n|\n|\r|$)/y

/** The lines of a text, with where they end without and with their line end. */
function* linesOf(text: string, from: number): Generator<{ readonly line: string; readonly at: number; end: number }> {
  lineOf.lastIndex = from
  let at = from
  while (at < text.length) {
    lineOf.lastIndex = at
    const match = lineOf.exec(text)
    if (match === null) return
    const end = at + match[0].length
    yield { line: match[1] ?? "", at, end }
    at = end
  }
}

const serverSent = (text: string, from: number): ReadonlyArray<StreamedEvent> => {
  const events: Array<StreamedEvent> = []
  let name = ""
  let data: Array<string> = []
  let dataEnd = 0
  const close = (end: number) => {
    if (data.length > 0) events.push({ name, data: data.join("\n"), dataEnd, end })
    name = ""
    data = []
  }
  for (const { at, end, line } of linesOf(text, from)) {
    if (line === "") close(end)
    else if (line.startsWith("data:")) {
      data.push(line.slice(line[5] === " " ? 6 : 5))
      dataEnd = at + line.trimEnd().length
    } else if (line.startsWith("event:")) name = line.slice(6).trim()
  }
  close(text.length)
  return events
}

/** The members of a list that a server writes piece by piece. */
const members = (text: string, from: number): ReadonlyArray<StreamedEvent> => {
  const events: Array<StreamedEvent> = []
  let depth = 0
  let start = from
  let quoted = false
  for (let at = from; at < text.length; at++) {
    const char = text[at]
    if (quoted) {
      if (char === "\\") at += 1
      else if (char === '"') quoted = false
    } else if (char === '"') quoted = true
    else if (char === "{" || char === "[") {
      depth += 1
      if (depth === 2) start = at
    } else if (char === "}" || char === "]") {
      depth -= 1
      if (depth === 1) events.push({ name: "", data: text.slice(start, at + 1), dataEnd: at + 1, end: at + 1 })
    }
  }
  return events
}

/** The events of a streamed body: server-sent events, lines of JSON, or a list that grows. */
export const eventsOf = (text: string): ReadonlyArray<StreamedEvent> => {
  const from = text.search(/[^\s\uFEFF]/)
  if (from === -1) return []
  if (text[from] === "[") return members(text, from)
  if (text[from] !== "{") return serverSent(text, from)
  const lines: Array<StreamedEvent> = []
  for (const { at, end, line } of linesOf(text, from)) {
    if (line.trim() === "") continue
    lines.push({ name: "", data: line, dataEnd: at + line.trimEnd().length, end })
  }
  // A document that is spread over lines is one event.
  const [first] = lines
  if (first !== undefined && parse(first.data) !== undefined) return lines
  return [{ name: "", data: text, dataEnd: text.trimEnd().length, end: text.length }]
}

/** Whether a body is a streamed one, where nobody said: by the type of its content, else by what it looks like. */
export const isStreamed = (contentType: string | undefined, body: string): boolean => {
  if (/event-stream|ndjson|jsonl/i.test(contentType ?? "")) return true
  const value = parse(body)
  if (value === undefined) return eventsOf(body).some(({ data }) => isRecord(parse(data)))
  // One JSON value may be all that came of a stream, or a list that was written piece by piece.
  return isList(value) ? ofValue(value) === "gemini" : isRecord(value) && value["done"] === false
}

const text = (value: unknown): boolean => typeof value === "string" && value !== ""

const first = (list: unknown): Json => {
  if (!isList(list)) return {}
  const found: unknown = list.find((one) => isRecord(one) && (one["index"] ?? 0) === 0)
  return isRecord(found) ? found : {}
}

/** Whether an event says that the answer is whole. */
const isEnd = (format: Format, event: StreamedEvent): boolean => {
  if (format === "replicate") return event.name === "done"
  const value = parse(event.data)
  if (!isRecord(value)) return false
  switch (format) {
    case "chat-completions":
      return text(first(value["choices"])["finish_reason"])
    case "responses":
      return ["response.completed", "response.incomplete"].includes(String(value["type"] ?? event.name))
    case "messages":
      return (value["type"] ?? event.name) === "message_stop"
    case "gemini": {
      const feedback = value["promptFeedback"]
      return text(first(value["candidates"])["finishReason"]) || (isRecord(feedback) && text(feedback["blockReason"]))
    }
    case "ollama":
      return value["done"] === true
    default:
      return false
  }
}

/** Where the end marker stands, in characters: before `from` it has not been said, from `to` on it has. */
export const endMarkerOf = (
  format: Format,
  events: ReadonlyArray<StreamedEvent>
): { readonly from: number; readonly to: number } | undefined => {
  const event = events.find((one) => isEnd(format, one))
  return event === undefined ? undefined : { from: event.dataEnd, to: event.end }
}

/** Pseudo-random whole numbers below a limit: the same ones for the same seed. */
export const numbersFrom = (seed: number): ((limit: number) => number) => {
  let state = seed >>> 0
  return (limit) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) % Math.max(1, limit)
  }
}
