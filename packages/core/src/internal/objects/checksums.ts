/** SHA-256 and CRC-32C over bytes as they come. */
import * as Crypto from "node:crypto"

export interface Follower {
  readonly update: (bytes: Uint8Array) => void
  /** In base64. */
  readonly digest: () => string
}

export const make = (algorithm: "sha256" | "crc32c"): Follower => {
  if (algorithm === "sha256") {
    const hash = Crypto.createHash("sha256")
    return { update: (bytes) => void hash.update(bytes), digest: () => hash.digest("base64") }
  }
  let state = 0xffffffff
  return {
    update: (bytes) => {
      state = advance(state, bytes)
    },
    digest: () => {
      const value = (state ^ 0xffffffff) >>> 0
      const bytes = Buffer.alloc(4)
      bytes.writeUInt32BE(value)
      return bytes.toString("base64")
    }
  }
}

/** SHA-256 in hex, the etag of stores of our own. */
export const hex = (bytes: Uint8Array): string => Crypto.hash("sha256", bytes, "hex")

let tables: ReadonlyArray<Uint32Array> | undefined

// Four tables: four bytes in one step.
const tablesOf = (): ReadonlyArray<Uint32Array> => {
  if (tables !== undefined) return tables
  const first = new Uint32Array(256)
  for (let byte = 0; byte < 256; byte++) {
    let value = byte
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1
    first[byte] = value >>> 0
  }
  const made = [first]
  for (let table = 1; table < 4; table++) {
    const before = made[table - 1] ?? first
    made.push(before.map((value) => ((value >>> 8) ^ (first[value & 0xff] ?? 0)) >>> 0))
  }
  tables = made
  return made
}

const advance = (from: number, bytes: Uint8Array): number => {
  const [t0, t1, t2, t3] = tablesOf()
  if (t0 === undefined || t1 === undefined || t2 === undefined || t3 === undefined) return from
  let state = from >>> 0
  let i = 0
  for (; i + 4 <= bytes.length; i += 4) {
    state ^= (bytes[i] ?? 0) | ((bytes[i + 1] ?? 0) << 8) | ((bytes[i + 2] ?? 0) << 16) | ((bytes[i + 3] ?? 0) << 24)
    state =
      (t3[state & 0xff] ?? 0) ^
      (t2[(state >>> 8) & 0xff] ?? 0) ^
      (t1[(state >>> 16) & 0xff] ?? 0) ^
      (t0[state >>> 24] ?? 0)
  }
  for (; i < bytes.length; i++) state = (state >>> 8) ^ (t0[(state ^ (bytes[i] ?? 0)) & 0xff] ?? 0)
  return state >>> 0
}
