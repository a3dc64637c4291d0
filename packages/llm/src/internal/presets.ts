/**
 * How requests are rewritten for servers that speak Chat Completions with differences. Each fact has its source beside it,
 * in `OpenAiCompatible.presets`.
 */
import * as Either from "effect/Either"
import type { LlmRequest } from "../LlmRequest.ts"
import { isRecord } from "./classify.ts"
import type { Json } from "./wire.ts"

/** Rewrites the body of a request; a `Left` says what cannot be carried and what to do instead. */
export type Adapt = (body: Json, request: LlmRequest) => Either.Either<Json, string>

/** One rewriting after another. */
export const all =
  (...steps: ReadonlyArray<Adapt>): Adapt =>
  (body, request) => {
    let result: Either.Either<Json, string> = Either.right(body)
    for (const step of steps) result = Either.flatMap(result, (known) => step(known, request))
    return result
  }

/** The server has no such fields, and none of them changes what is meant. */
export const without =
  (...names: ReadonlyArray<string>): Adapt =>
  (body) =>
    Either.right(Object.fromEntries(Object.entries(body).filter(([name]) => !names.includes(name))))

/** The server calls a field otherwise. */
export const renamed =
  (from: string, to: string): Adapt =>
  (body) =>
    Either.right(Object.fromEntries(Object.entries(body).map(([name, value]) => [name === from ? to : name, value])))

/** The server samples from the `top_k` likeliest tokens, which OpenAI's format has no field for. */
export const withTopK: Adapt = (body, request) =>
  Either.right(request.topK === undefined ? body : { ...body, top_k: request.topK })

const chosenName = (body: Json): string | undefined => {
  const choice = body["tool_choice"]
  const inner = isRecord(choice) ? choice["function"] : undefined
  return isRecord(inner) && typeof inner["name"] === "string" ? inner["name"] : undefined
}

const named = (tool: unknown, name: string): boolean => {
  const inner = isRecord(tool) ? tool["function"] : undefined
  return isRecord(inner) && inner["name"] === name
}

/** The server knows the words for `tool_choice` only: one tool by its name is that tool alone, and it must be called. */
export const choiceInWords: Adapt = (body) => {
  const name = chosenName(body)
  if (name === undefined) return Either.right(body)
  const tools = Array.isArray(body["tools"]) ? body["tools"].filter((tool) => named(tool, name)) : []
  return tools.length === 0
    ? Either.left(`the tool ${JSON.stringify(name)} that must be called is not among the tools`)
    : Either.right({ ...body, tools, tool_choice: "required" })
}

/** The server knows no `tool_choice`: the model decides. `none` leaves the tools out. */
export const noChoice =
  (server: string): Adapt =>
  (body) => {
    const { tool_choice: choice, ...rest } = body
    if (choice === undefined || choice === "auto") return Either.right(rest)
    if (choice === "none") return without("tools", "parallel_tool_calls")(rest, { messages: [] })
    return Either.left(
      `${server} cannot be made to call a tool: leave out toolChoice, and say in the prompt what is wanted`
    )
  }

const formatType = (body: Json): unknown => {
  const format = body["response_format"]
  return isRecord(format) ? format["type"] : undefined
}

/** The server writes JSON, but not by a schema. */
export const noSchema =
  (server: string): Adapt =>
  (body) =>
    formatType(body) === "json_schema"
      ? Either.left(
          `${server} does not write JSON by a schema: use responseFormat json, or a tool with these parameters`
        )
      : Either.right(body)

/** The server writes JSON by a schema only: any object is one too. */
export const jsonBySchema: Adapt = (body) =>
  Either.right(
    formatType(body) === "json_object"
      ? {
          ...body,
          response_format: { type: "json_schema", json_schema: { name: "object", schema: { type: "object" } } }
        }
      : body
  )

const messagesOf = (body: Json): ReadonlyArray<unknown> => (Array.isArray(body["messages"]) ? body["messages"] : [])

const hasCalls = (message: Json): boolean => Array.isArray(message["tool_calls"]) && message["tool_calls"].length > 0

/** Reasoning must stand beside every call that the model made while it reasoned; calls of other models have none. */
export const reasoningBesideCalls =
  (field: string): Adapt =>
  (body) =>
    Either.right({
      ...body,
      messages: messagesOf(body).map((message) =>
        isRecord(message) && hasCalls(message) && message[field] === undefined ? { ...message, [field]: "" } : message
      )
    })

/** Efforts that stand for no reasoning at all are a switch of their own. */
export const thinkingSwitch: Adapt = (body) => {
  const { reasoning_effort: effort, ...rest } = body
  return Either.right(effort === "none" ? { ...rest, thinking: { type: "disabled" } } : body)
}

const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/** An id of `length` letters and digits, always the same for the same id. */
const shortId = (id: string, length: number, salt: number): string => {
  // FNV-1a over the id, once for each half: 2 x 32 bits are more than the letters can show.
  const hash = (seed: number) => {
    let value = seed >>> 0
    for (let index = 0; index < id.length; index++) {
      value = Math.imul(value ^ id.charCodeAt(index), 0x01000193) >>> 0
    }
    return value
  }
  let value = (BigInt(hash(0x811c9dc5 + salt)) << 32n) | BigInt(hash(0x9747b28c + salt))
  let short = ""
  for (let index = 0; index < length; index++) {
    short += letters[Number(value % 62n)]
    value /= 62n
  }
  return short
}

/**
 * The server wants the ids of calls to be of `length` letters and digits: those of others are replaced, the same everywhere
 * in the request, and no two by the same.
 */
export const shortCallIds =
  (length: number): Adapt =>
  (body) => {
    const fits = new RegExp(`^[A-Za-z0-9]{${length}}$`)
    const known = new Map<string, string>()
    const taken = new Set<string>()
    const messages = messagesOf(body)
    const calls = messages.flatMap((message) =>
      isRecord(message) && Array.isArray(message["tool_calls"]) ? message["tool_calls"].filter(isRecord) : []
    )
    for (const call of calls) {
      const id = String(call["id"])
      if (fits.test(id)) {
        known.set(id, id)
        taken.add(id)
      }
    }
    const idOf = (value: unknown): string => {
      const id = String(value)
      const before = known.get(id)
      if (before !== undefined) return before
      let salt = 0
      let short = shortId(id, length, salt)
      while (taken.has(short)) short = shortId(id, length, ++salt)
      known.set(id, short)
      taken.add(short)
      return short
    }
    return Either.right({
      ...body,
      messages: messages.map((message) => {
        if (!isRecord(message)) return message
        if (message["tool_call_id"] !== undefined) return { ...message, tool_call_id: idOf(message["tool_call_id"]) }
        if (!hasCalls(message) || !Array.isArray(message["tool_calls"])) return message
        return {
          ...message,
          tool_calls: message["tool_calls"].map((call: unknown) =>
            isRecord(call) ? { ...call, id: idOf(call["id"]) } : call
          )
        }
      })
    })
  }
