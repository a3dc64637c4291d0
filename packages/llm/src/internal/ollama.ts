/**
 * Where an Ollama server is, and who asks it.
 */
import * as Redacted from "effect/Redacted"

/** Where Ollama listens unless it is told otherwise. */
export const defaultHost = "http://127.0.0.1:11434"

/** The server's address: a host without a scheme, as `OLLAMA_HOST` often is, is asked by HTTP. */
export const rootOf = (host: string | undefined): string => {
  const given = host === undefined || host.trim() === "" ? defaultHost : host.trim()
  const located = /^[a-z][a-z0-9+.-]*:\/\//i.test(given) ? given : `http://${given}`
  return located.replace(/\/+$/, "").replace(/\/(?:v1|api)$/, "")
}

const revealed = (value: string | Redacted.Redacted): string =>
  typeof value === "string" ? value : Redacted.value(value)

/** The headers of every request, revealed. */
export const headersOf = (options: {
  readonly apiKey?: Redacted.Redacted | undefined
  readonly headers?: Readonly<Record<string, string | Redacted.Redacted>> | undefined
}): Readonly<Record<string, string>> => {
  const headers: Record<string, string> = {}
  if (options.apiKey !== undefined) headers["authorization"] = `Bearer ${Redacted.value(options.apiKey)}`
  for (const [name, value] of Object.entries(options.headers ?? {})) headers[name.toLowerCase()] = revealed(value)
  return headers
}
