/** Where a bucket is, and how keys become paths. */
import { encode } from "../aws/sign.ts"

export interface Address {
  /** `https://host:port` */
  readonly origin: string
  /** What comes before a key: `/bucket/`, or `/` where the bucket is part of the host. */
  readonly base: string
}

/** Names that may stand in a host. */
const hostName = /^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$/

export const addressOf = (options: {
  readonly bucket: string
  readonly region: string
  readonly endpoint: URL | undefined
  readonly addressing: "path" | "virtual" | undefined
}): Address => {
  const { bucket, endpoint, region } = options
  const suffix = region.startsWith("cn-") ? "amazonaws.com.cn" : "amazonaws.com"
  const url = endpoint ?? new URL(`https://s3.${region}.${suffix}`)
  const virtual = (options.addressing ?? (endpoint === undefined ? "virtual" : "path")) === "virtual"
  const path = url.pathname.endsWith("/") ? url.pathname : `${url.pathname}/`
  return virtual && hostName.test(bucket)
    ? { origin: `${url.protocol}//${bucket}.${url.host}`, base: path }
    : { origin: url.origin, base: `${path}${encode(bucket)}/` }
}

/** A key in a path: every byte but `A-Z a-z 0-9 - . _ ~ /` as `%XX`. */
export const encodeKey = (key: string): string =>
  /^[A-Za-z0-9._~/-]*$/.test(key) ? key : key.split("/").map(encode).join("/")

/** Whether a URL would take the path apart: a segment is `.` or `..`. */
export const hasDots = (key: string): boolean => /(?:^|\/)\.{1,2}(?:\/|$)/.test(key)

// A URL resolves segments of dots, however they are written. `!` is in no path of ours: on the way through URLs `!.` and
// `!..` stand for them, and the transport puts them back.
export const mark = (path: string): string => path.replace(/(?<=\/)(\.{1,2})(?=\/|$)/g, "!$1")
export const unmark = (path: string): string => {
  const at = path.indexOf("?")
  const end = at < 0 ? path.length : at
  return path.slice(0, end).replace(/(?<=\/)!(\.{1,2})(?=\/|$)/g, "$1") + path.slice(end)
}
