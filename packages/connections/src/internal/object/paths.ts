/**
 * How keys become paths that are the same on every file system: none leaves the folder, none is taken for another that
 * differs in case or in its form of Unicode, none is a reserved name, and a key can be the beginning of another.
 *
 * A segment of a key, what is between slashes, is a name: `d_` and the segment where more follows, `o_` and the segment at
 * the end. A segment of 64 bytes or more is cut: each 64 bytes are a folder `l_…`. All bytes but `a-z 0-9 - _` and inner
 * dots are written `%xx`.
 *
 * Within, keys are texts of one character a byte, so that their order is that of their bytes.
 */

const cut = 64

export const toBytes = (key: string): string => Buffer.from(key, "utf8").toString("latin1")
export const fromBytes = (bytes: string): string => Buffer.from(bytes, "latin1").toString("utf8")

const encode = (bytes: string): string =>
  bytes.replace(/[^a-z0-9_.-]|\.$/g, (char) => `%${char.charCodeAt(0).toString(16).padStart(2, "0")}`)

const decode = (name: string): string =>
  name.replace(/%([0-9a-f]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))

const pieces = (segment: string): Array<string> => {
  const out: Array<string> = []
  let rest = segment
  while (rest.length >= cut) {
    out.push(`l_${encode(rest.slice(0, cut))}`)
    rest = rest.slice(cut)
  }
  out.push(encode(rest))
  return out
}

const named = (segment: string, mark: "o_" | "d_"): Array<string> => {
  const out = pieces(segment)
  const last = out.pop() ?? ""
  return [...out, mark + last]
}

/** The names, from the folder of all objects, that lead to the file of a key. */
export const namesOf = (bytes: string): Array<string> => {
  const segments = bytes.split("/")
  const last = segments.pop() ?? ""
  return [...segments.flatMap((segment) => named(segment, "d_")), ...named(last, "o_")]
}

/** The names that lead to the folder of the keys that begin so: up to its last slash. */
export const folderOf = (prefix: string): { readonly names: Array<string>; readonly bytes: string } => {
  const at = prefix.lastIndexOf("/")
  const bytes = prefix.slice(0, at + 1)
  const segments = bytes.split("/").slice(0, -1)
  return { names: segments.flatMap((segment) => named(segment, "d_")), bytes }
}

/** What a name in a folder is: an object, or a folder, with what it adds to the key. */
export interface Entry {
  readonly name: string
  readonly isObject: boolean
  readonly adds: string
}

export const entryOf = (name: string): Entry | undefined => {
  const text = name.slice(2)
  switch (name.slice(0, 2)) {
    case "o_":
      return { name, isObject: true, adds: decode(text) }
    case "d_":
      return { name, isObject: false, adds: `${decode(text)}/` }
    case "l_":
      return { name, isObject: false, adds: decode(text) }
    default:
      return undefined
  }
}
