/**
 * Where an Ollama server is, and who asks it.
 */
import * as Duration from "effect/Duration"
import * as Redacted from "effect/Redacted"

const defaultPort = "11434"

/** Where Ollama listens unless it is told otherwise. */
export const defaultHost = `http://127.0.0.1:${defaultPort}`

/**
 * The server's address. A host without a scheme, as `OLLAMA_HOST` often is, is asked by HTTP and at Ollama's own port
 * unless it names one, as by Ollama's own clients; a port alone is one of this machine.
 */
export const rootOf = (host: string | undefined): string => {
  const given = host === undefined || host.trim() === "" ? defaultHost : host.trim()
  return located(given)
    .replace(/\/+$/, "")
    .replace(/\/(?:v1|api)$/, "")
}

const located = (host: string): string => {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(host)) return host
  const address = `http://${host.startsWith(":") ? "127.0.0.1" : ""}${host}`
  // Read from the text: a URL forgets that port 80 was named.
  const [, authority = "", path = ""] = /^http:\/\/([^/?#]*)(.*)$/i.exec(address) ?? []
  return /:\d+$/.test(authority) ? address : `http://${authority}:${defaultPort}${path}`
}

/** A duration as the server reads it, in whole seconds; for ever is a negative one. */
export const secondsOf = (input: Duration.DurationInput): number => {
  const seconds = Duration.toSeconds(input)
  return Number.isFinite(seconds) ? Math.ceil(seconds) : -1
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
