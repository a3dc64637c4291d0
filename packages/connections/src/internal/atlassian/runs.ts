/**
 * Text in a line as runs with marks, which is what the storage format, Markdown and the Atlassian Document Format have in
 * common. Marks are sets: which of two is inside the other is decided here, in one way, so that going to and fro ends.
 */
import type * as Mdast from "mdast"
import * as Xml from "./xml.ts"

/** Two links that follow each other are two, also where they lead to the same place: each has a number of its own. */
export type Mark =
  | { readonly type: "emphasis" | "strong" | "delete" }
  | { readonly type: "link"; readonly id: number; readonly url: string; readonly title: string | undefined }
  /** An element round text; `comment` where its tags are hidden in comments. */
  | { readonly type: "element"; readonly element: Xml.Element; readonly comment: boolean }

export type Leaf =
  | { readonly type: "text"; readonly value: string }
  | { readonly type: "code"; readonly value: string }
  | { readonly type: "break" }
  | {
      readonly type: "image"
      readonly url: string
      readonly alt: string
      readonly title: string | undefined
      /** Further attributes of the element. */
      readonly more: ReadonlyArray<readonly [string, string]>
    }
  /** What has no other form: an element as it is; `comment` where it is hidden in a comment. */
  | { readonly type: "raw"; readonly element: Xml.Element; readonly comment: boolean }

export interface Run {
  readonly leaf: Leaf
  readonly marks: ReadonlyArray<Mark>
}

export interface Group {
  readonly mark: Mark
  readonly children: ReadonlyArray<InlineNode>
}

export type InlineNode = Group | Leaf

const rank = { element: 0, emphasis: 1, strong: 2, delete: 3, link: 4 } as const

const keys = new WeakMap<Mark, string>()

export const keyOf = (mark: Mark): string => {
  if (mark.type !== "link" && mark.type !== "element") return mark.type
  const known = keys.get(mark)
  if (known !== undefined) return known
  const key = mark.type === "link" ? `link ${mark.id}` : `element ${Xml.openTag(mark.element, false)}`
  keys.set(mark, key)
  return key
}

/** Marks from the 10th on, squared, over all runs of a line: what `group` takes for them. */
const maxMarkWork = 2_000_000

const checkMarks = (runs: ReadonlyArray<Run>): void => {
  let work = 0
  for (const { marks } of runs) {
    if (marks.length >= 10) work += marks.length ** 2
    if (work > maxMarkWork) throw new Xml.Refused("TooComplex", "a text is in too many elements at once")
  }
}

/** Adds a mark, once; of links there is one, the outer. */
export const withMark = (marks: ReadonlyArray<Mark>, mark: Mark): ReadonlyArray<Mark> =>
  marks.some((each) => keyOf(each) === keyOf(mark) || (each.type === "link" && mark.type === "link"))
    ? marks
    : [...marks, mark]

const isSpace = (text: string): boolean => /^\s*$/u.test(text)

const sameMarks = (a: Run, keys: ReadonlySet<string>): boolean =>
  a.marks.length === keys.size && a.marks.every((mark) => keys.has(keyOf(mark)))

/**
 * White space is one space, none at the ends and round breaks, and has the marks that both its neighbours have; runs with
 * the same marks are one.
 */
export const tidy = (runs: ReadonlyArray<Run>): ReadonlyArray<Run> => {
  checkMarks(runs)
  // Pieces of words, of white space and of breaks, which are white space too.
  const pieces: Array<{ run: Run; space: boolean }> = []
  for (const run of runs) {
    if (run.leaf.type !== "text") {
      pieces.push({ run, space: run.leaf.type === "break" })
      continue
    }
    const value = run.leaf.value.replace(/[ \t\r\n\f]+/g, " ")
    const start = value.length - value.trimStart().length
    const end = value.trimEnd().length
    const part = (from: number, to: number, space: boolean): void => {
      if (to > from)
        pieces.push({ run: { leaf: { type: "text", value: value.slice(from, to) }, marks: run.marks }, space })
    }
    if (start >= value.length) part(0, value.length, true)
    else {
      part(0, start, true)
      part(start, end, false)
      part(end, value.length, true)
    }
  }
  const out: Array<Run> = []
  const push = (leaf: Leaf, marks: ReadonlyArray<Mark>): void => {
    if (leaf.type === "text" && leaf.value === "") return
    const last = out[out.length - 1]
    if (last?.leaf.type === "text" && leaf.type === "text" && sameMarks(last, new Set(marks.map(keyOf)))) {
      out[out.length - 1] = { leaf: { type: "text", value: last.leaf.value + leaf.value }, marks: last.marks }
      return
    }
    // Backquotes that meet would be one run of them.
    if (last?.leaf.type === "code" && leaf.type === "code" && sameMarks(last, new Set(marks.map(keyOf)))) {
      out[out.length - 1] = { leaf: { type: "code", value: last.leaf.value + leaf.value }, marks: last.marks }
      return
    }
    out.push({ leaf, marks })
  }
  for (let at = 0; at < pieces.length; ) {
    const piece = pieces[at]
    if (piece === undefined) break
    if (!piece.space) {
      push(piece.run.leaf, piece.run.marks)
      at++
      continue
    }
    const lines = [""]
    let each = pieces[at]
    while (each?.space === true) {
      if (each.run.leaf.type === "text") lines.push((lines.pop() ?? "") + each.run.leaf.value)
      else lines.push("")
      each = pieces[++at]
    }
    const before = out[out.length - 1]
    const after = each?.run
    const keys = new Set((after?.marks ?? []).map(keyOf))
    // What is at an end has no marks: there they could not be told.
    const marks = before === undefined ? [] : before.marks.filter((mark) => keys.has(keyOf(mark)))
    const first = before === undefined
    const last = after === undefined
    const kept = lines.map((line, index) => {
      const one = line.replace(/ +/g, " ")
      const left = index === 0 && !first ? one : one.replace(/^ /, "")
      return index === lines.length - 1 && !last ? left : left.replace(/ $/, "")
    })
    while (first && kept.length > 1 && kept[0] === "") kept.shift()
    while (last && kept.length > 1 && kept[kept.length - 1] === "") kept.pop()
    kept.forEach((value, index) => {
      if (index > 0) push({ type: "break" }, marks)
      push({ type: "text", value }, marks)
    })
  }
  return out
}

/** Runs as a tree: each mark round as many runs as it can be, but a link whole and within the marks that all of it has. */
export const group = (runs: ReadonlyArray<Run>): ReadonlyArray<InlineNode> => {
  checkMarks(runs)
  const units: Array<Unit> = []
  for (let at = 0; at < runs.length; ) {
    const run = runs[at]
    if (run === undefined) break
    const link = run.marks.find(({ type }) => type === "link")
    if (link === undefined) {
      units.push({ node: run.leaf, marks: run.marks })
      at++
      continue
    }
    const key = keyOf(link)
    const inside: Array<Run> = []
    while (runs[at]?.marks.some((mark) => keyOf(mark) === key)) {
      const one = runs[at++]
      if (one !== undefined) inside.push(one)
    }
    const common = run.marks.filter(
      (mark) => mark.type !== "link" && inside.every(({ marks }) => marks.some((each) => keyOf(each) === keyOf(mark)))
    )
    const outer = new Set([key, ...common.map(keyOf)])
    const children = group(
      inside.map(({ leaf, marks }) => ({ leaf, marks: marks.filter((mark) => !outer.has(keyOf(mark))) }))
    )
    units.push({ node: { mark: link, children }, marks: common })
  }
  return grouped(units)
}

interface Unit {
  readonly node: InlineNode
  readonly marks: ReadonlyArray<Mark>
}

const grouped = (units: ReadonlyArray<Unit>): ReadonlyArray<InlineNode> => {
  const out: Array<InlineNode> = []
  for (let at = 0; at < units.length; ) {
    const unit = units[at]
    if (unit === undefined) break
    let best: { mark: Mark; to: number } | undefined
    for (const mark of unit.marks) {
      const key = keyOf(mark)
      let to = at + 1
      while (to < units.length && units[to]?.marks.some((each) => keyOf(each) === key)) to++
      if (
        best === undefined ||
        to > best.to ||
        (to === best.to &&
          (rank[mark.type] < rank[best.mark.type] ||
            (rank[mark.type] === rank[best.mark.type] && key < keyOf(best.mark))))
      ) {
        best = { mark, to }
      }
    }
    if (best === undefined) {
      out.push(unit.node)
      at++
      continue
    }
    const { mark, to } = best
    const key = keyOf(mark)
    const inside = units
      .slice(at, to)
      .map((each) => ({ node: each.node, marks: each.marks.filter((one) => keyOf(one) !== key) }))
    out.push({ mark, children: grouped(inside) })
    at = to
  }
  return out
}

/** Text alone, for titles. */
export const plainText = (runs: ReadonlyArray<Run>): string =>
  runs
    .map(({ leaf }) =>
      leaf.type === "text" || leaf.type === "code"
        ? leaf.value
        : leaf.type === "break"
          ? " "
          : leaf.type === "image"
            ? leaf.alt
            : Xml.textOf(leaf.element)
    )
    .join("")

/** What would end a comment or a cell, or begin a line, as character references. The XML stays the same. */
const hidden = (xml: string): string =>
  xml.replace(/-(?=-|$)/g, "&#45;").replace(/[|\n\r]/g, (each) => `&#${each.charCodeAt(0)};`)

/** Whether a name has what ends a comment: in a name there are no references. */
const namesDashes = (xml: string): boolean => {
  for (const [tag] of xml.matchAll(/<[^<>]*>/g)) if (tag.replace(/"[^"]*"/g, "").includes("--")) return true
  return false
}

/** An element in a comment, with no CDATA, in which references would not be read. */
export const comment = (xml: string): string =>
  namesDashes(xml) ? `<!--${encodeURIComponent(xml).replaceAll("-", "%2D")}-->` : `<!--${hidden(xml)}-->`

/** What `comment` hid, or another comment's text, if it is one. */
export const commentOf = (html: string): string | undefined => {
  if (!html.startsWith("<!--") || !html.endsWith("-->") || html.length < 7) return undefined
  const text = html.slice(4, -3)
  if (!text.startsWith("%3C")) return text
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

/** All of an element without CDATA. */
export const writeEscaped = (node: Xml.Element): string => {
  if (node.children.length === 0) return Xml.openTag(node, true)
  return (
    Xml.openTag(node, false) +
    node.children.map((each) => (typeof each === "string" ? Xml.write([each]) : writeEscaped(each))).join("") +
    `</${node.name}>`
  )
}

const rawHtml = (leaf: Leaf & { readonly type: "raw" }): string =>
  leaf.comment ? comment(writeEscaped(leaf.element)) : hidden(writeEscaped(leaf.element))

const isPunctuation = (char: string): boolean => /[\p{P}\p{S}]/u.test(char)

const edge = (node: InlineNode | undefined, last: boolean): string => {
  if (node === undefined) return " "
  if ("mark" in node) {
    // The delimiters of emphasis in emphasis are one run with its own.
    if (node.mark.type === "emphasis" || node.mark.type === "strong") {
      return edge(node.children[last ? node.children.length - 1 : 0], last)
    }
    return "."
  }
  if (node.type === "break") return " "
  if (node.type !== "text") return "."
  const chars = last ? node.value.slice(-2) : node.value.slice(0, 2)
  return (last ? Array.from(chars).pop() : Array.from(chars)[0]) ?? " "
}

const isAttention = (node: InlineNode | undefined): boolean =>
  node !== undefined &&
  "mark" in node &&
  (node.mark.type === "emphasis" || node.mark.type === "strong" || node.mark.type === "delete")

const tagOf = { emphasis: "em", strong: "strong", delete: "del" } as const

/**
 * The tree as Markdown's. Emphasis that Markdown could not tell, such as `**a.**b`, is written as tags. In a cell and in a
 * heading a line cannot end.
 */
export const toMdast = (
  nodes: ReadonlyArray<InlineNode>,
  oneLine: boolean,
  inside = false
): Array<Mdast.PhrasingContent> => {
  const out: Array<Mdast.PhrasingContent> = []
  const html = (value: string): void => {
    out.push({ type: "html", value })
  }
  nodes.forEach((node, at) => {
    if ("mark" in node) {
      const { mark } = node
      switch (mark.type) {
        case "link":
          out.push({
            type: "link",
            url: mark.url,
            ...(mark.title === undefined ? {} : { title: mark.title }),
            children: toMdast(node.children, oneLine)
          })
          return
        case "element": {
          const open = Xml.openTag(mark.element, false)
          const close = `</${mark.element.name}>`
          html(mark.comment ? comment(open) : hidden(open))
          out.push(...toMdast(node.children, oneLine, true))
          html(mark.comment ? comment(close) : close)
          return
        }
        default: {
          const before = at === 0 && inside ? "." : edge(nodes[at - 1], true)
          const after = at === nodes.length - 1 && inside ? "." : edge(nodes[at + 1], false)
          const first = edge(node.children[0], false)
          const last = edge(node.children[node.children.length - 1], true)
          const free = (char: string): boolean => isSpace(char) || isPunctuation(char)
          const safe =
            !isSpace(first) &&
            !isSpace(last) &&
            (!isPunctuation(first) || free(before)) &&
            (!isPunctuation(last) || free(after)) &&
            !isAttention(nodes[at - 1]) &&
            !isAttention(nodes[at + 1]) &&
            node.children.length > 0
          const children = toMdast(node.children, oneLine, true)
          if (safe) out.push({ type: mark.type, children: guarded(children, false) })
          else {
            html(`<${tagOf[mark.type]}>`)
            out.push(...children)
            html(`</${tagOf[mark.type]}>`)
          }
          return
        }
      }
    }
    switch (node.type) {
      case "text":
        out.push({ type: "text", value: node.value })
        return
      case "code":
        out.push({ type: "inlineCode", value: node.value })
        return
      case "break":
        if (oneLine) html("<br />")
        else out.push({ type: "break" })
        return
      case "image":
        out.push({
          type: "image",
          url: node.url,
          alt: node.alt,
          ...(node.title === undefined ? {} : { title: node.title })
        })
        if (node.more.length > 0) html(comment(Xml.openTag(Xml.element("ac:image", [], node.more), true)))
        return
      case "raw":
        html(rawHtml(node))
        return
    }
  })
  return out
}

/**
 * A line that begins with a tag would be a block of HTML: an empty element before it prevents that. `begins`: whether a line
 * begins with the first of them.
 */
export const guarded = (children: ReadonlyArray<Mdast.PhrasingContent>, begins = true): Array<Mdast.PhrasingContent> =>
  children.flatMap((child, at): Array<Mdast.PhrasingContent> => {
    const before = children[at - 1]
    const starts = before === undefined ? begins : before.type === "break"
    return starts && child.type === "html" ? [{ type: "html", value: "<span></span>" }, child] : [child]
  })
