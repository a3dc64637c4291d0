/**
 * Markdown's trees as the storage format's.
 */
import type * as Mdast from "mdast"
import * as InlineRead from "./inlineRead.ts"
import * as Resources from "./resources.ts"
import * as Runs from "./runs.ts"
import * as StorageRead from "./storageRead.ts"
import * as Xml from "./xml.ts"

export interface Options {
  /** The text that the tree was read from: what was escaped in it shows there. */
  readonly source: string
  /** Whether storage format inside the Markdown is taken as such, or as text. */
  readonly raw: boolean
}

const parameter = (name: string, value: string): Xml.Element =>
  Xml.element("ac:parameter", [value], [["ac:name", name]])

const macro = (name: string, parameters: ReadonlyArray<readonly [string, string]>, body: Xml.Element): Xml.Element =>
  Xml.element(
    "ac:structured-macro",
    [...parameters.map(([each, value]) => parameter(each, value)), body],
    [["ac:name", name]]
  )

const richBody = (children: ReadonlyArray<Xml.Node>): Xml.Element => Xml.element("ac:rich-text-body", children)

/** What stands in a line, as elements. */
export const inline = (nodes: ReadonlyArray<Runs.InlineNode>): ReadonlyArray<Xml.Node> =>
  nodes.map((node): Xml.Node => {
    if (!("mark" in node)) return leaf(node)
    const { mark } = node
    switch (mark.type) {
      case "emphasis":
        return Xml.element("em", inline(node.children))
      case "strong":
        return Xml.element("strong", inline(node.children))
      case "delete":
        return Xml.element("del", inline(node.children))
      case "element":
        return Xml.element(mark.element.name, inline(node.children), mark.element.attributes)
      default:
        return link(mark, node.children)
    }
  })

const link = (mark: Runs.Mark & { readonly type: "link" }, children: ReadonlyArray<Runs.InlineNode>): Xml.Element => {
  const target = mark.title === undefined ? Resources.read(mark.url) : undefined
  const inner = inline(children)
  if (target === undefined) {
    const title: ReadonlyArray<readonly [string, string]> = mark.title === undefined ? [] : [["title", mark.title]]
    return Xml.element("a", inner, [["href", mark.url], ...title])
  }
  if (target.kind === "emoticon" && target.element !== undefined) return target.element
  const [only] = children
  const text =
    children.length === 1 && only !== undefined && !("mark" in only) && only.type === "text" ? only.value : undefined
  const body =
    text === target.text
      ? []
      : [
          Xml.element(
            text === undefined ? "ac:link-body" : "ac:plain-text-link-body",
            text === undefined ? inner : [text]
          )
        ]
  return Xml.element(
    "ac:link",
    [...(target.element === undefined ? [] : [target.element]), ...body],
    target.anchor === undefined ? [] : [["ac:anchor", target.anchor]]
  )
}

const leaf = (node: Runs.Leaf): Xml.Node => {
  switch (node.type) {
    case "text":
      return node.value
    case "code":
      return Xml.element("code", [node.value])
    case "break":
      return Xml.element("br")
    case "raw":
      return node.element
    case "image": {
      const file = Resources.attachmentOf(node.url)
      const target =
        file === undefined
          ? Xml.element("ri:url", [], [["ri:value", node.url]])
          : Xml.element("ri:attachment", [], [["ri:filename", file]])
      const attributes: Array<readonly [string, string]> = []
      if (node.alt !== "") attributes.push(["ac:alt", node.alt])
      if (node.title !== undefined) attributes.push(["ac:title", node.title])
      return Xml.element("ac:image", [target], [...attributes, ...node.more])
    }
  }
}

/** A pair of pieces of HTML with what is between them. */
interface Wrapped {
  readonly type: "wrapped"
  readonly open: Opening
  readonly children: ReadonlyArray<Piece>
}
type Piece = Mdast.RootContent | Wrapped

interface Opening {
  readonly close: string
  /** How many elements it opens. */
  readonly depth: number
  readonly make: (children: ReadonlyArray<Xml.Node>) => Xml.Element | undefined
}

const opening = (html: string, raw: boolean): Opening | undefined => {
  const details = /^<details>\s*(?:<summary>([^<]*)<\/summary>\s*)?$/.exec(html.length > 10_000 ? "" : html)
  if (details !== null) {
    const nodes = Xml.tryParse(details[1] ?? "")
    const title = (nodes?.map(Xml.textOf).join("") ?? details[1] ?? "").replace(/\s+/gu, " ").trim()
    return {
      close: "</details>",
      depth: 2,
      make: (children) => macro("expand", title === "" ? [] : [["title", title]], richBody(children))
    }
  }
  const text = raw ? Runs.commentOf(html) : undefined
  if (text === undefined || !text.startsWith("<")) return undefined
  const open: Array<string> = []
  for (const [, end, name, , empty] of text.matchAll(/<(\/?)([\w:.-]+)((?:\s+[\w:.-]+="[^"<]*")*)\s*(\/?)>/g)) {
    if (name === undefined || empty === "/") continue
    if (end === "") open.push(name)
    else if (open.pop() !== name) return undefined
  }
  if (open.length === 0) return undefined
  const depth = open.length
  const close = open
    .reverse()
    .map((name) => `</${name}>`)
    .join("")
  const whole = Xml.tryParse(`${text}<hole />${close}`)
  const [node] = whole ?? []
  if (whole?.length !== 1 || node === undefined || !Xml.isElement(node)) return undefined
  const fill = (into: Xml.Element, children: ReadonlyArray<Xml.Node>): Xml.Element =>
    Xml.element(
      into.name,
      into.children.flatMap((child) =>
        typeof child === "string" ? [child] : child.name === "hole" ? children : [fill(child, children)]
      ),
      into.attributes
    )
  return { close, depth, make: (children) => fill(node, children) }
}

const closing = (html: string, raw: boolean): string | undefined => {
  if (/^<\/details>\s*$/.test(html)) return "</details>"
  const text = raw ? Runs.commentOf(html) : undefined
  return text?.startsWith("</") ? text : undefined
}

/** Siblings with pairs of HTML made one. What has no other half stays as it is. */
const paired = (nodes: ReadonlyArray<Mdast.RootContent>, raw: boolean): ReadonlyArray<Piece> => {
  if (!nodes.some(({ type }) => type === "html")) return nodes
  const root: Array<Piece> = []
  const open: Array<{ opening: Opening; node: Mdast.RootContent; children: Array<Piece> }> = []
  const counts = new Map<string, number>()
  const here = (): Array<Piece> => open[open.length - 1]?.children ?? root
  for (const node of nodes) {
    if (node.type === "html") {
      const start = opening(node.value, raw)
      if (start !== undefined) {
        if (open.length >= Xml.maxDepth) throw new Xml.Refused("TooDeep", "elements are too deep in each other")
        open.push({ opening: start, node, children: [] })
        counts.set(start.close, (counts.get(start.close) ?? 0) + 1)
        continue
      }
      const end = closing(node.value, raw)
      if (end !== undefined && (counts.get(end) ?? 0) > 0) {
        for (let last = open.pop(); last !== undefined; last = open.pop()) {
          counts.set(last.opening.close, (counts.get(last.opening.close) ?? 1) - 1)
          if (last.opening.close === end) {
            here().push({ type: "wrapped", open: last.opening, children: last.children })
            break
          }
          here().push(last.node, ...last.children)
        }
        continue
      }
    }
    here().push(node)
  }
  for (let last = open.pop(); last !== undefined; last = open.pop()) {
    const into = here()
    into.push(last.node)
    for (const child of last.children) into.push(child)
  }
  return root
}

const isChecked = (item: Mdast.ListItem): boolean => typeof item.checked === "boolean"

/** Aliases of other dialects for Confluence's panels. */
const panelNames: Readonly<Record<string, string>> = {
  info: "info",
  note: "note",
  tip: "tip",
  warning: "warning",
  important: "note",
  caution: "warning"
}

const htmlNames: ReadonlySet<string> = new Set([
  ...(
    "p h1 h2 h3 h4 h5 h6 ul ol li blockquote pre hr table thead tbody tfoot tr td th colgroup col div details summary " +
    "br a em strong i b del s strike time"
  ).split(" "),
  ...StorageRead.inlineElements
])

const allHtml = (nodes: ReadonlyArray<Xml.Node>): boolean =>
  nodes.every((node) => typeof node === "string" || (htmlNames.has(node.name) && allHtml(node.children)))

export const write = (root: Mdast.Root, options: Options): ReadonlyArray<Xml.Node> => {
  const definitions = InlineRead.definitionsOf(root)
  const { raw, source } = options
  const runsOf = (nodes: ReadonlyArray<Mdast.PhrasingContent>): ReadonlyArray<Runs.Run> =>
    InlineRead.read(nodes, definitions, raw)
  const line = (runs: ReadonlyArray<Runs.Run>): ReadonlyArray<Xml.Node> => inline(Runs.group(runs))
  const paragraph = (runs: ReadonlyArray<Runs.Run>): ReadonlyArray<Xml.Node> => {
    const tidied = Runs.tidy(runs)
    return tidied.length === 0 ? [] : [Xml.element("p", line(tidied))]
  }
  const all = (nodes: ReadonlyArray<Mdast.RootContent>): ReadonlyArray<Xml.Node> => pieces(paired(nodes, raw))
  const pieces = (nodes: ReadonlyArray<Piece>): ReadonlyArray<Xml.Node> => nodes.flatMap(one)
  let depth = 0
  /** Comments can open many elements each, and lists hold comments: together they have a limit too. */
  const deeper = (by: number, inside: () => ReadonlyArray<Xml.Node>): ReadonlyArray<Xml.Node> => {
    depth += by
    if (depth > 2 * Xml.maxDepth) throw new Xml.Refused("TooDeep", "elements are too deep in each other")
    const made = inside()
    depth -= by
    return made
  }
  const one = (node: Piece): ReadonlyArray<Xml.Node> => {
    switch (node.type) {
      case "wrapped": {
        const made = node.open.make(deeper(node.open.depth, () => pieces(node.children)))
        return made === undefined ? [] : [made]
      }
      case "paragraph":
        return paragraph(runsOf(node.children))
      case "heading": {
        const runs = runsOf(node.children)
        return runs.length === 0 ? [] : [Xml.element(`h${node.depth}`, line(runs))]
      }
      case "thematicBreak":
        return [Xml.element("hr")]
      case "blockquote":
        return deeper(1, () => quote(node))
      case "list":
        return deeper(2, () => list(node))
      case "code":
        return code(node)
      case "table":
        return table(node)
      case "html":
        return html(node.value)
      default:
        return []
    }
  }
  const quote = (node: Mdast.Blockquote): ReadonlyArray<Xml.Node> => {
    const panel = panelOf(node)
    if (panel !== undefined) return [panel]
    const children = all(node.children)
    return children.length === 0 ? [] : [Xml.element("blockquote", children)]
  }
  const panelOf = (node: Mdast.Blockquote): Xml.Element | undefined => {
    const [first, ...rest] = node.children
    const start = first?.position?.start.offset
    if (first?.type !== "paragraph" || start === undefined || !source.startsWith("[!", start)) return undefined
    const [head] = first.children
    if (head?.type !== "text") return undefined
    const found = /^\[!([A-Za-z]+)\][ \t]*/.exec(head.value)
    const name = found === null ? undefined : panelNames[(found[1] ?? "").toLowerCase()]
    if (found === null || name === undefined) return undefined
    // The rest of the first line is the title, the lines below it a paragraph.
    const title: Array<Mdast.PhrasingContent> = []
    const body: Array<Mdast.PhrasingContent> = []
    let below = false
    for (const child of [{ ...head, value: head.value.slice(found[0].length) }, ...first.children.slice(1)]) {
      if (below) body.push(child)
      else if (child.type === "break") below = true
      else if (child.type === "text" && child.value.includes("\n")) {
        const end = child.value.indexOf("\n")
        title.push({ type: "text", value: child.value.slice(0, end) })
        body.push({ type: "text", value: child.value.slice(end + 1) })
        below = true
      } else title.push(child)
    }
    const text = Runs.plainText(runsOf(title)).replace(/\s+/gu, " ").trim()
    return macro(name, text === "" ? [] : [["title", text]], richBody([...paragraph(runsOf(body)), ...all(rest)]))
  }
  const list = (node: Mdast.List): ReadonlyArray<Xml.Node> => {
    if (!node.ordered && node.children.length > 0 && node.children.every(isChecked)) {
      return [
        Xml.element(
          "ac:task-list",
          node.children.map((item) =>
            Xml.element("ac:task", [
              Xml.element("ac:task-status", [item.checked === true ? "complete" : "incomplete"]),
              Xml.element("ac:task-body", taskBody(item))
            ])
          )
        )
      ]
    }
    const items = node.children.map((item) => Xml.element("li", itemBody(item)))
    const start = node.start ?? 1
    return [
      node.ordered === true
        ? Xml.element("ol", items, start === 1 ? [] : [["start", String(start)]])
        : Xml.element("ul", items)
    ]
  }
  const itemBody = (item: Mdast.ListItem): ReadonlyArray<Xml.Node> => {
    if (!isChecked(item)) return all(item.children)
    // Among items that are none, a task is its text.
    const mark: Mdast.Text = { type: "text", value: item.checked === true ? "[x] " : "[ ] " }
    const [first, ...rest] = item.children
    return first?.type === "paragraph"
      ? all([{ ...first, children: [mark, ...first.children] }, ...rest])
      : all(item.children)
  }
  /** Confluence writes the text of a task without a paragraph round it. */
  const taskBody = (item: Mdast.ListItem): ReadonlyArray<Xml.Node> => {
    const nodes = all(item.children)
    const [first] = nodes
    return nodes.length === 1 && Xml.isElement(first) && first.name === "p" ? first.children : nodes
  }
  const code = (node: Mdast.Code): ReadonlyArray<Xml.Node> => {
    if (raw && node.lang === StorageRead.rawLanguage && (node.meta ?? "") === "") {
      const nodes = Xml.tryParse(node.value)
      if (nodes !== undefined) return nodes
    }
    const noformat = node.lang === "noformat"
    const language: ReadonlyArray<readonly [string, string]> =
      noformat || node.lang === null || node.lang === undefined ? [] : [["language", node.lang]]
    const name = noformat ? "noformat" : "code"
    return [
      macro(
        name,
        [...language, ...metaOf(node.meta ?? "", noformat)],
        Xml.element("ac:plain-text-body", node.value === "" ? [] : [node.value])
      )
    ]
  }
  const table = (node: Mdast.Table): ReadonlyArray<Xml.Node> => {
    const columns = node.align?.length ?? node.children[0]?.children.length ?? 0
    const rows = node.children.map((row) => {
      const cells = row.children.slice(0, columns).map((cell) => runsOf(cell.children))
      while (cells.length < columns) cells.push([])
      return cells
    })
    const [head, ...rest] = rows
    const headed = head?.some((cell) => cell.length > 0) === true
    const made = (cells: ReadonlyArray<ReadonlyArray<Runs.Run>>, name: string): Xml.Element =>
      Xml.element(
        "tr",
        cells.map((cell) => Xml.element(name, paragraph(cell)))
      )
    const all = [...(headed && head !== undefined ? [made(head, "th")] : []), ...rest.map((row) => made(row, "td"))]
    return all.length === 0 ? [] : [Xml.element("table", [Xml.element("tbody", all)])]
  }
  const html = (value: string): ReadonlyArray<Xml.Node> => {
    const hidden = Runs.commentOf(value)
    if (hidden !== undefined && !value.slice(4, -3).includes("-->")) {
      const nodes = raw && hidden.startsWith("<") ? Xml.tryParse(hidden) : undefined
      return nodes?.length === 1 ? nodes : []
    }
    const nodes = Xml.tryParse(value)
    if (nodes !== undefined && allHtml(nodes)) {
      // By the way of the other direction, so that it has the one form.
      const read = StorageRead.blocks(nodes, { unsupported: "keep" })
      return write({ type: "root", children: read }, { source: "", raw: true })
    }
    // What is no XML is text.
    const text = withoutComments(value)
    return paragraph([{ leaf: { type: "text", value: text }, marks: [] }])
  }
  return all(root.children)
}

const withoutComments = (text: string): string => {
  const parts: Array<string> = []
  for (let at = 0; ; ) {
    const from = text.indexOf("<!--", at)
    const to = from < 0 ? -1 : text.indexOf("-->", from + 4)
    if (to < 0) return [...parts, text.slice(at)].join(" ")
    parts.push(text.slice(at, from))
    at = to + 3
  }
}

/** The other parameters of a code macro: `title="Main" collapse="true"`. */
const metaOf = (meta: string, noformat: boolean): ReadonlyArray<readonly [string, string]> => {
  const text = meta.trim()
  if (text === "") return []
  const found: Array<readonly [string, string]> = []
  let at = 0
  const pattern = /\s*([\w+#.-]{1,60})=("(?:[^"\\]|\\.)*"|[^\s"]+)(?=\s|$)/y
  while (at < text.length) {
    pattern.lastIndex = at
    const match = pattern.exec(text)
    const value = match === null ? undefined : valueOf(match[2] ?? "")
    const name = match?.[1]
    if (match === null || name === undefined || value === undefined || found.some(([each]) => each === name)) {
      return [["title", text]]
    }
    if (!noformat && name === "language") return [["title", text]]
    found.push([name, value])
    at = pattern.lastIndex
  }
  return found
}

const valueOf = (text: string): string | undefined => {
  if (!text.startsWith('"')) return text
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === "string" ? value : undefined
  } catch {
    return undefined
  }
}
