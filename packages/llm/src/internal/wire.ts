/**
 * What the wire formats have in common: lenient reading of JSON fields, finish reasons, and how values are written.
 */
import type { Finish } from "../LlmResponse.ts"

export type Json = Readonly<Record<string, unknown>>

/** A text that says something. */
export const string = (value: unknown): string | undefined =>
  typeof value === "string" && value !== "" ? value : undefined

/** A number, which some servers write as a string. */
export const count = (value: unknown): number | undefined => {
  if (typeof value === "string" && /^\d+(?:\.\d+)?$/.test(value)) return Number(value)
  return typeof value === "number" && Number.isFinite(value) ? value : undefined
}

/** The fields that were given a value. */
export const said = (fields: Json | undefined): Json =>
  Object.fromEntries(Object.entries(fields ?? {}).filter(([, value]) => value !== undefined))

/** A value as JSON text; `null` for what JSON has no words for. */
export const json = (value: unknown): string => JSON.stringify(value) ?? "null"

/** The result of a tool as text. */
export const resultText = (result: unknown, isError: boolean): string => {
  if (isError) {
    // The message of an `Error` is no property that JSON writes.
    const said = result instanceof Error ? result.message : result
    return typeof said === "string" ? `Error: ${said}` : json({ error: said ?? null })
  }
  return result === undefined ? "" : typeof result === "string" ? result : json(result)
}

const stops = new Set(["stop", "end_turn", "stop_sequence", "eos_token", "eos", "completed", "done", "complete"])
const lengths = new Set(["length", "max_tokens", "max_output_tokens", "model_context_window_exceeded", "model_length"])
const calls = new Set(["tool_calls", "function_call", "tool_use", "tool_call"])
const filters = new Set([
  "content_filter",
  "refusal",
  "safety",
  "recitation",
  "blocklist",
  "prohibited_content",
  "spii"
])

/** What a provider's finish reason means. A model that stopped with calls open waits for them, whatever it says. */
export const finishOf = (reason: string | undefined, hasCalls: boolean): Finish => {
  const name = (reason ?? "").toLowerCase()
  if (stops.has(name)) return hasCalls ? "tool-calls" : "stop"
  if (lengths.has(name)) return "length"
  if (calls.has(name)) return "tool-calls"
  if (filters.has(name)) return "content-filter"
  return name === "pause_turn" ? "pause" : "other"
}
