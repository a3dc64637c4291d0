/** The keys of a folder in the order of their bytes, with memory for some names of each folder on the way. */
import * as Fs from "node:fs/promises"
import * as Path from "node:path"
import { type Entry, entryOf, folderOf } from "./paths.ts"

/** How many names of a folder are kept at once: of a larger one the next are looked for again. */
const kept = 10_000

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** The entries after `after`, in order: as many as are kept, and whether there are more. */
const entriesOf = async (
  folder: string,
  after: string | undefined
): Promise<{ readonly entries: Array<Entry>; readonly more: boolean }> => {
  const entries: Array<Entry> = []
  let more = false
  const shrink = () => {
    entries.sort((a, b) => compare(a.adds, b.adds))
    if (entries.length > kept) {
      more = true
      entries.length = kept
    }
  }
  let directory: Awaited<ReturnType<typeof Fs.opendir>>
  try {
    directory = await Fs.opendir(folder, { bufferSize: 256 })
  } catch (error) {
    // It was emptied and removed meanwhile.
    if (error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR")) {
      return { entries, more: false }
    }
    throw error
  }
  // The iteration closes it, also when it is left.
  for await (const one of directory) {
    const entry = entryOf(one.name)
    if (entry === undefined || (after !== undefined && entry.adds <= after)) continue
    entries.push(entry)
    if (entries.length >= 2 * kept) shrink()
  }
  shrink()
  return { entries, more }
}

export interface Walk {
  readonly root: string
  readonly prefix: string
  readonly after: string | undefined
  /** Whether folders are given as common prefixes: the delimiter is a slash. */
  readonly folders: boolean
}

export type Found =
  | { readonly _tag: "Object"; readonly bytes: string; readonly path: string }
  | { readonly _tag: "Prefix"; readonly bytes: string }

export const walk = (options: Walk): AsyncGenerator<Found, void, void> => {
  const { names, bytes } = folderOf(options.prefix)
  return below(Path.join(options.root, ...names), bytes, options)
}

async function* below(folder: string, bytes: string, options: Walk): AsyncGenerator<Found, void, void> {
  const { after, prefix } = options
  let last: string | undefined
  for (;;) {
    const { entries, more } = await entriesOf(folder, last)
    for (const entry of entries) {
      last = entry.adds
      const here = bytes + entry.adds
      const path = Path.join(folder, entry.name)
      if (entry.isObject) {
        if (here.startsWith(prefix) && (after === undefined || here > after))
          yield { _tag: "Object", bytes: here, path }
        continue
      }
      if (!here.startsWith(prefix) && !prefix.startsWith(here)) continue
      if (after !== undefined && here < after && !after.startsWith(here)) continue
      if (options.folders && here.endsWith("/") && here.startsWith(prefix) && here !== prefix) {
        // One that is empty is being removed, or filled.
        for await (const _ of below(path, here, { ...options, folders: false })) {
          yield { _tag: "Prefix", bytes: here }
          break
        }
        continue
      }
      yield* below(path, here, options)
    }
    if (!more) return
  }
}
