/**
 * What belongs to the entries of a cache and is none: keys and channels that begin with `cache:~`, where no namespace
 * can begin, and the messages on the channels.
 */
import type { Heard, Origin } from "@underlay/core/state/Cache"
import * as Slots from "./slots.ts"

/** The lease of an entry's key, in the same slot of a Cluster. */
export const lease = (key: string): string => {
  const open = key.indexOf("{")
  const close = open < 0 ? -1 : key.indexOf("}", open + 1)
  // its own hash tag holds here too
  if (open >= 0 && close > open + 1) return `cache:~lease:${key}`
  if (!key.includes("}")) return `cache:~lease:{${key}}`
  // it cannot stand in a hash tag: a number that has its slot does
  const slot = Slots.ofKey(key)
  let number = 0
  while (Slots.ofKey(String(number)) !== slot) number++
  return `cache:~lease:{${number}}${key}`
}

/** A pattern of the leases of all keys that begin so, and perhaps of some others. */
export const leasePattern = (prefix: string): string => `cache:~lease:*${literal(prefix)}*`

/** A pattern of all keys that begin so. */
export const pattern = (prefix: string): string => `${literal(prefix)}*`

/** Where changes of a namespace are told. */
export const changesChannel = (namespace: string): string => `cache:~changes:${namespace}`

/** Where the ends of leases are told, as the entry's key; nothing stands for all of them. */
export const leasesChannel = (key: string): string =>
  `cache:~leases:${key.slice("cache:".length, key.indexOf(":", "cache:".length))}`

/** A change as it is told. */
export const message = (
  by: Origin,
  change:
    | { readonly keys: ReadonlyArray<string> }
    | { readonly tags: ReadonlyArray<string> }
    | { readonly cleared: true }
): string => JSON.stringify({ from: by.from, ...change })

/** What was told. What cannot be read may have been anything. */
export const heardOf = (payload: string): Heard => {
  const everything: Heard = { _tag: "Changed", from: undefined, keys: [], tags: [], cleared: true }
  let told: unknown
  try {
    told = JSON.parse(payload)
  } catch {
    return everything
  }
  if (typeof told !== "object" || told === null) return everything
  const { cleared = false, from, keys = [], tags = [] } = told as Readonly<Record<string, unknown>>
  if (typeof from !== "string" || typeof cleared !== "boolean" || !isTexts(keys) || !isTexts(tags)) return everything
  return { _tag: "Changed", from, keys, tags, cleared }
}

/** Keys that the server says were changed; it does not say by whom. None stands for all of them. */
export const invalidatedOf = (keys: ReadonlyArray<Uint8Array> | null): Heard => ({
  _tag: "Changed",
  from: undefined,
  // what is no text is no key of a handle
  keys: keys === null ? [] : keys.map((key) => textDecoder.decode(key)),
  tags: [],
  cleared: keys === null
})

const textDecoder = new TextDecoder()

const isTexts = (value: unknown): value is ReadonlyArray<string> =>
  Array.isArray(value) && value.every((one) => typeof one === "string")

/** A text as a pattern that matches itself alone. */
const literal = (value: string): string => value.replace(/[\\*?[\]^-]/g, (character) => `\\${character}`)
