/**
 * Which server has a key: consistent hashing as ketama does it (160 points a server out of MD5, of `host-n`, or
 * `host:port-n` where the port is not 11211), so that a server more or less moves only its own share of the keys.
 */
import * as Crypto from "node:crypto"

export interface Address {
  readonly host: string
  readonly port: number
}

/** Forty digests of four points each. */
const digests = 40

const md5 = (text: string): Buffer => Crypto.createHash("md5").update(text).digest()

/** The index of a key's server among the addresses. */
export const make = (addresses: ReadonlyArray<Address>): ((key: string) => number) => {
  if (addresses.length === 1) return () => 0
  const points: Array<readonly [at: number, index: number]> = []
  for (const [index, { host, port }] of addresses.entries()) {
    const name = port === 11_211 ? host : `${host}:${port}`
    for (let digest = 0; digest < digests; digest++) {
      const bytes = md5(`${name}-${digest}`)
      for (let part = 0; part < 4; part++) points.push([bytes.readUInt32LE(part * 4), index])
    }
  }
  // servers in another order are the same ring
  const nameOf = (index: number): string => `${addresses[index]?.host}:${addresses[index]?.port}`
  points.sort((a, b) => a[0] - b[0] || (nameOf(a[1]) < nameOf(b[1]) ? -1 : 1))
  const places = Uint32Array.from(points, ([at]) => at)
  const servers = points.map(([, index]) => index)
  return (key) => {
    const hash = md5(key).readUInt32LE(0)
    let low = 0
    let high = places.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((places[middle] ?? 0) < hash) low = middle + 1
      else high = middle
    }
    return servers[low === places.length ? 0 : low] ?? 0
  }
}

/** `host`, `host:port`, `[ipv6]`, `[ipv6]:port`, an IPv6 address alone; or why it is none. */
export const parse = (text: string): Address | string => {
  const trimmed = text.trim()
  const bracketed = /^\[([^\]]+)\](?::(\d+))?$/.exec(trimmed)
  const plain = /^([^:[\]\s]+)(?::(\d+))?$/.exec(trimmed)
  const bare = /^[0-9A-Fa-f:.]+(?:%\w+)?$/.test(trimmed) && trimmed.split(":").length > 2
  const [host, port] = bare ? [trimmed, undefined] : [(bracketed ?? plain)?.[1], (bracketed ?? plain)?.[2]]
  if (host === undefined) return "a server is host, host:port or [IPv6 address]:port"
  const number = port === undefined ? 11_211 : Number(port)
  return number >= 1 && number <= 65_535 ? { host, port: number } : "a port is a number from 1 to 65535"
}
