/**
 * Signature Version 4, in headers and in the query, after the description that AWS publishes. Only `node:crypto` is
 * needed; the key of a day is kept.
 */
import * as Crypto from "node:crypto"
import * as Redacted from "effect/Redacted"

/** What requests are signed with. `expiration` is there where they are lent for a time. */
export interface Credentials {
  readonly accessKeyId: string
  readonly secretAccessKey: Redacted.Redacted
  readonly sessionToken?: Redacted.Redacted | undefined
  readonly expiration?: Date | undefined
}

/** The payload hash of a body that is not signed: for streams, over TLS. */
export const unsignedPayload = "UNSIGNED-PAYLOAD"

/** The payload hash of nothing. */
export const emptyPayloadHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/** SHA-256 in hex, as payload hashes are written. */
export const sha256Hex = (data: string | Uint8Array): string => Crypto.hash("sha256", data, "hex")

/** Percent-encoding of RFC 3986: all but `A-Z a-z 0-9 - . _ ~`. */
export const encode = (text: string): string => {
  const encoded = encodeURIComponent(text)
  return /[!'()*]/.test(encoded)
    ? encoded.replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`)
    : encoded
}

export interface SignInput {
  readonly method: string
  readonly url: URL
  /** The path as it is sent, where that is not the URL's: a URL takes segments of dots away. */
  readonly path?: string | undefined
  /** What is signed along. `host`, the date, the payload's hash (S3) and the session token are added. */
  readonly headers: Readonly<Record<string, string>>
  /** SHA-256 of the body in hex, or `UNSIGNED-PAYLOAD`. */
  readonly payloadHash: string
  readonly region: string
  readonly service: string
  readonly credentials: Credentials
  readonly now: Date
}

// What proxies and clients change or add on the way.
const unsigned = new Set([
  "authorization",
  "connection",
  "content-length",
  "expect",
  "keep-alive",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "user-agent",
  "traceparent",
  "tracestate",
  "baggage",
  "b3",
  "x-amzn-trace-id"
])

/**
 * Gives the headers of `input`, by lower-case names, with those that sign the request: `authorization`, `x-amz-date` and
 * where they belong `x-amz-content-sha256` and `x-amz-security-token`. `host` is signed and not given: the client sends it.
 */
export const signHeaders = (input: SignInput): Record<string, string> => {
  const { credentials, payloadHash, region, service, url } = input
  const time = timeOf(input.now)
  const out: Record<string, string> = {}
  for (const name in input.headers) {
    const value = input.headers[name]
    if (value !== undefined) out[name.toLowerCase()] = value
  }
  out["x-amz-date"] = time
  if (service === "s3") out["x-amz-content-sha256"] = payloadHash
  if (credentials.sessionToken !== undefined) out["x-amz-security-token"] = Redacted.value(credentials.sessionToken)
  const names = Object.keys(out).filter((name) => name !== "host" && !unsigned.has(name))
  names.push("host")
  names.sort()
  let canonicalHeaders = ""
  for (const name of names) {
    const value = name === "host" ? (out["host"] ?? url.host) : (out[name] ?? "")
    canonicalHeaders += `${name}:${trimmed(value)}\n`
  }
  const signedHeaders = names.join(";")
  const canonical =
    `${input.method}\n${pathOf(input, service)}\n${queryOf(url)}\n` +
    `${canonicalHeaders}\n${signedHeaders}\n${payloadHash}`
  const scope = scopeOf(time, region, service)
  const signature = sign(credentials, time, region, service, scope, canonical)
  delete out["host"]
  out["authorization"] =
    `AWS4-HMAC-SHA256 Credential=${credentials.accessKeyId}/${scope}, ` +
    `SignedHeaders=${signedHeaders}, Signature=${signature}`
  return out
}

/**
 * Gives the URL with a signature in its query that is good for `expiresInSeconds` (at most seven days). Whoever uses it
 * must send the `headers` that were signed, and needs no credentials.
 */
export const presign = (input: Omit<SignInput, "payloadHash">, expiresInSeconds: number): URL => {
  const { credentials, region, service } = input
  const time = timeOf(input.now)
  const scope = scopeOf(time, region, service)
  const headers: Record<string, string> = {}
  for (const name in input.headers) {
    const value = input.headers[name]
    if (value !== undefined) headers[name.toLowerCase()] = value
  }
  headers["host"] = headers["host"] ?? input.url.host
  const names = Object.keys(headers).sort()
  const url = new URL(input.url)
  const pairs: Array<readonly [string, string]> = [
    ["X-Amz-Algorithm", "AWS4-HMAC-SHA256"],
    ["X-Amz-Credential", `${credentials.accessKeyId}/${scope}`],
    ["X-Amz-Date", time],
    ["X-Amz-Expires", String(expiresInSeconds)],
    ["X-Amz-SignedHeaders", names.join(";")]
  ]
  if (credentials.sessionToken !== undefined) {
    pairs.push(["X-Amz-Security-Token", Redacted.value(credentials.sessionToken)])
  }
  const before = url.search.length > 1 ? `${url.search.slice(1)}&` : ""
  url.search = before + pairs.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&")
  const canonicalHeaders = names.map((name) => `${name}:${trimmed(headers[name] ?? "")}\n`).join("")
  const canonical =
    `${input.method}\n${pathOf(input, service)}\n${queryOf(url)}\n` +
    `${canonicalHeaders}\n${names.join(";")}\n${unsignedPayload}`
  url.search = `${queryOf(url)}&X-Amz-Signature=${sign(credentials, time, region, service, scope, canonical)}`
  return url
}

/** `20150830T123600Z` */
export const timeOf = (date: Date): string => `${date.toISOString().slice(0, 19).replace(/[-:]/g, "")}Z`

const scopeOf = (time: string, region: string, service: string): string =>
  `${time.slice(0, 8)}/${region}/${service}/aws4_request`

const trimmed = (value: string): string => {
  const text = value.trim()
  return text.includes("  ") ? text.replace(/ {2,}/g, " ") : text
}

/** S3 takes the path as it is sent; the others encode what is encoded once more. */
const pathOf = (input: { readonly url: URL; readonly path?: string | undefined }, service: string): string => {
  const path = input.path ?? input.url.pathname
  return service === "s3" || path === "/" ? path : path.split("/").map(encode).join("/")
}

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    // A lone percent sign stands for itself.
    return text
  }
}

const queryOf = (url: URL): string => {
  if (url.search.length < 2) return ""
  return url.search
    .slice(1)
    .split("&")
    .filter((pair) => pair !== "")
    .map((pair) => {
      const at = pair.indexOf("=")
      return at < 0
        ? ([encode(decoded(pair)), ""] as const)
        : ([encode(decoded(pair.slice(0, at))), encode(decoded(pair.slice(at + 1)))] as const)
    })
    .sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : a[1] < b[1] ? -1 : a[1] > b[1] ? 1 : 0))
    .map(([name, value]) => `${name}=${value}`)
    .join("&")
}

const hmac = (key: string | Buffer, text: string): Buffer => Crypto.createHmac("sha256", key).update(text).digest()

interface DayKey {
  readonly secret: Redacted.Redacted
  readonly key: Buffer
}

// Keys of a day, region and service: four rounds of HMAC that need not be done for each request. The map is small: one
// entry a client and day, and the oldest goes when there are many.
const dayKeys = new Map<string, DayKey>()

const keyOf = (credentials: Credentials, date: string, region: string, service: string): Buffer => {
  const id = `${credentials.accessKeyId}/${date}/${region}/${service}`
  const known = dayKeys.get(id)
  if (
    known !== undefined &&
    (known.secret === credentials.secretAccessKey ||
      Redacted.value(known.secret) === Redacted.value(credentials.secretAccessKey))
  ) {
    return known.key
  }
  const secret = credentials.secretAccessKey
  const key = hmac(hmac(hmac(hmac(`AWS4${Redacted.value(secret)}`, date), region), service), "aws4_request")
  if (dayKeys.size >= 64) {
    const oldest = dayKeys.keys().next()
    if (oldest.done !== true) dayKeys.delete(oldest.value)
  }
  dayKeys.set(id, { secret, key })
  return key
}

const sign = (
  credentials: Credentials,
  time: string,
  region: string,
  service: string,
  scope: string,
  canonical: string
): string =>
  Crypto.createHmac("sha256", keyOf(credentials, time.slice(0, 8), region, service))
    .update(`AWS4-HMAC-SHA256\n${time}\n${scope}\n${sha256Hex(canonical)}`)
    .digest("hex")
