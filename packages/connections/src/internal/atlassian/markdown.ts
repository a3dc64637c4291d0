/**
 * Markdown (CommonMark with tables, strikethrough, task lists and bare links) as a tree, and back, by mdast. The parser is
 * quadratic in what is open at once (brackets, emphasis, nesting), so there are limits on that, met before it takes long.
 */
import type * as Mdast from "mdast"
import { fromMarkdown, type Options } from "mdast-util-from-markdown"
import { gfmFromMarkdown, gfmToMarkdown } from "mdast-util-gfm"
import { toMarkdown } from "mdast-util-to-markdown"
import { gfm } from "micromark-extension-gfm"
import { Refused } from "./xml.ts"

/** How deep lists and quotes may be in each other. */
export const maxContainers = 40
/** Delimiters (brackets, emphasis, code, tags) in one paragraph, heading or cell. */
export const maxDelimiters = 1_000
/** Lines times the depth that each may have. */
const maxLineDepth = 200_000
/** Definitions of links, and headings that are underlined. */
const maxNamed = 1_000
const maxPipes = 30_000
/** Beginnings of bare addresses times the length of the word that they are in: each is read to its end. */
const maxAddressWork = 1_000_000
const maxLines = 25_000
/** Lines in a row that belong to a list or quote without its marks: each is tried against all before it. */
const maxLazy = 500
/** Delimiters in all of it. */
const maxAllDelimiters = 30_000

type Extension = NonNullable<Options["extensions"]>[number]
type Constructs = NonNullable<Extension["text"]>
type Construct = Exclude<NonNullable<Constructs[number]>, ReadonlyArray<unknown>>

/** Counts what the parser meets in one run of text, and ends it where there is too much. */
const guard = (): Extension => {
  const counts = new WeakMap<object, number>()
  let all = 0
  const counter: Construct = {
    tokenize(_effects, _ok, nok) {
      const count = (counts.get(this) ?? 0) + 1
      if (count > maxDelimiters) {
        throw new Refused("TooComplex", `a paragraph has more than ${maxDelimiters} brackets, stars and the like`)
      }
      if (++all > maxAllDelimiters) {
        throw new Refused("TooComplex", `there are more than ${maxAllDelimiters} brackets, stars and the like`)
      }
      counts.set(this, count)
      return nok
    }
  }
  const text: Constructs = {}
  for (const char of "!*<[]_~") text[char.charCodeAt(0)] = counter
  text[backtick] = {
    ...counter,
    // As the construct of code has it: within a run of them nothing begins.
    previous(code) {
      return code !== backtick || this.events[this.events.length - 1]?.[1].type === "characterEscape"
    }
  }
  return {
    text,
    // Confluence and Jira have no footnotes.
    disable: { null: ["gfmFootnoteDefinition", "gfmFootnoteCall", "gfmPotentialFootnoteCall"] }
  }
}

const backtick = 96

const marker = /[ \t]*(?:>|[-+*](?=[ \t]|$)|\d{1,9}[.)](?=[ \t]|$))/y

/** Looks at the lines, once, for what would take the parser long. */
const check = (text: string): void => {
  let open = 0
  let work = 0
  let named = 0
  let pipes = 0
  for (let at = text.indexOf("|"); at >= 0; at = text.indexOf("|", at + 1)) pipes++
  if (pipes > maxPipes) throw new Refused("TooComplex", `tables have more than ${maxPipes} cells`)
  let addresses = 0
  for (const [word] of text.matchAll(/[^\s!-,/:-@[-^`{-~]+/g)) {
    if (word.length < 1_000) continue
    addresses += (word.split(/www\./i).length - 1) * word.length
    if (addresses > maxAddressWork) throw new Refused("TooComplex", "too many addresses are in one word")
  }
  let blank = true
  let lines = 0
  let lazy = 0
  for (let from = 0; from < text.length; ) {
    if (++lines > maxLines) throw new Refused("TooComplex", `there are more than ${maxLines} lines`)
    let to = text.indexOf("\n", from)
    if (to < 0) to = text.length
    let at = from
    let markers = 0
    for (;;) {
      marker.lastIndex = at
      if (!marker.test(text) || marker.lastIndex > to) break
      at = marker.lastIndex
      markers++
      if (markers > maxContainers) throw tooDeep()
    }
    const prefix = text.slice(from, at)
    const spaces = prefix.length - prefix.replace(/[ \t]/g, "").length + 3 * (prefix.split("\t").length - 1)
    const column = text.charCodeAt(from) === 32 || text.charCodeAt(from) === 9
    const empty = at >= to || /^[ \t]*$/.test(text.slice(at, Math.min(to, at + 1_000)))
    // A container that is in others begins two columns behind them at the least.
    if (markers > 0) open = Math.min(open, spaces >> 1) + markers
    else if (blank && !column && !empty) open = 0
    lazy = markers === 0 && open > 0 && !blank && !empty ? lazy + 1 : 0
    if (lazy > maxLazy) {
      throw new Refused("TooComplex", `a list or quote goes on for more than ${maxLazy} lines without its marks`)
    }
    if (open > maxContainers) throw tooDeep()
    work += open
    if (work > maxLineDepth)
      throw new Refused("TooComplex", "too many lines are in lists or quotes that are deep in others")
    while (at < to && (text.charCodeAt(at) === 32 || text.charCodeAt(at) === 9)) at++
    const first = text.charCodeAt(at)
    const underlines =
      (first === 61 || first === 45) && /^(?:=+|-+)[ \t]*$/.test(text.slice(at, Math.min(to, at + 1_000)))
    if ((underlines || text.slice(from, to).includes("]:")) && ++named > maxNamed) {
      throw new Refused("TooComplex", `there are more than ${maxNamed} definitions and underlined headings`)
    }
    blank = empty
    from = to + 1
  }
}

const tooDeep = (): Refused =>
  new Refused("TooDeep", `lists and quotes are more than ${maxContainers} deep in each other`)

// Their searches for addresses in what is parsed already take quadratic time.
const withoutTransforms = gfmFromMarkdown().map((extension) => ({ ...extension, transforms: [] }))

/** Reads Markdown; what would take too long is thrown as `Refused`. */
export const parse = (text: string): Mdast.Root => {
  const lines = text.replace(/\r\n?/g, "\n")
  check(lines)
  return fromMarkdown(lines, { extensions: [gfm(), guard()], mdastExtensions: withoutTransforms })
}

/** Prints a tree. */
export const print = (root: Mdast.Root): string =>
  toMarkdown(root, {
    extensions: [gfmToMarkdown({ tablePipeAlign: false })],
    bullet: "-",
    emphasis: "*",
    strong: "*",
    fence: "`",
    fences: true,
    listItemIndent: "one",
    resourceLink: true,
    rule: "-",
    // Two lists that follow each other are told apart by their bullets.
    bulletOther: "*"
  })
