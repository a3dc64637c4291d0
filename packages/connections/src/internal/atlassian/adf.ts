/**
 * The Atlassian Document Format and Markdown. Nodes that Markdown has no form for are kept as JSON in fenced blocks of the
 * language `adf`.
 */
import type * as Mdast from "mdast"
import { type AdfDocument, type AdfMark, type AdfNode, node } from "./adfText.ts"
import * as InlineRead from "./inlineRead.ts"
import * as Markdown from "./markdown.ts"
import * as Runs from "./runs.ts"
import * as Xml from "./xml.ts"

const rawLanguage = "adf"

const rawElement = "adf-node"

const account = "accountid:"

// ---- to the format

const marksOf = (marks: ReadonlyArray<Runs.Mark>): ReadonlyArray<AdfMark> =>
  marks.flatMap((mark): ReadonlyArray<AdfMark> => {
    switch (mark.type) {
      case "emphasis":
        return [{ type: "em" }]
      case "strong":
        return [{ type: "strong" }]
      case "delete":
        return [{ type: "strike" }]
      case "link":
        return [{ type: "link", attrs: { href: mark.url, ...(mark.title === undefined ? {} : { title: mark.title }) } }]
      default:
        return mark.element.name === "u"
          ? [{ type: "underline" }]
          : mark.element.name === "sub" || mark.element.name === "sup"
            ? [{ type: "subsup", attrs: { type: mark.element.name } }]
            : []
    }
  })

const textNode = (text: string, marks: ReadonlyArray<AdfMark>): ReadonlyArray<AdfNode> =>
  text === "" ? [] : [{ type: "text", text, ...(marks.length === 0 ? {} : { marks }) }]

const decoded = (text: string): string => {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

const line = (runs: ReadonlyArray<Runs.Run>): ReadonlyArray<AdfNode> =>
  runs.flatMap(({ leaf, marks }): ReadonlyArray<AdfNode> => {
    const link = marks.find((mark) => mark.type === "link")
    switch (leaf.type) {
      case "text":
        if (link?.type === "link" && link.url.startsWith(account) && link.url.length > account.length) {
          return [node("mention", undefined, { id: decoded(link.url.slice(account.length)), text: leaf.value })]
        }
        return textNode(leaf.value, marksOf(marks))
      case "code":
        // Beside it only a link may be.
        return textNode(leaf.value, [...marksOf(marks.filter(({ type }) => type === "link")), { type: "code" }])
      case "break":
        return [node("hardBreak")]
      case "image":
        return textNode(
          leaf.alt === "" ? leaf.url : leaf.alt,
          link === undefined && leaf.url !== "" ? [{ type: "link", attrs: { href: leaf.url } }] : marksOf(marks)
        )
      default: {
        const raw = leaf.element.name === rawElement ? readNode(Xml.textOf(leaf.element)) : undefined
        return raw === undefined ? textNode(Xml.textOf(leaf.element), marksOf(marks)) : [raw]
      }
    }
  })

const isNode = (value: unknown, depth = 0): value is AdfNode => {
  if (typeof value !== "object" || value === null || Array.isArray(value) || depth > Xml.maxDepth) return false
  const { attrs, content, marks, text, type }: Readonly<Record<string, unknown>> = { ...value }
  return (
    typeof type === "string" &&
    (text === undefined || typeof text === "string") &&
    (attrs === undefined || (typeof attrs === "object" && attrs !== null)) &&
    (marks === undefined || (Array.isArray(marks) && marks.every((mark) => isNode(mark, depth + 1)))) &&
    (content === undefined || (Array.isArray(content) && content.every((child) => isNode(child, depth + 1))))
  )
}

const readNode = (json: string): AdfNode | undefined => {
  try {
    const value: unknown = JSON.parse(json)
    return isNode(value) ? value : undefined
  } catch {
    return undefined
  }
}

type Place = "doc" | "item" | "quote" | "cell" | "panel" | "expand"

/** What Jira takes in which place; the rest is put there as what it holds. */
const takes: Readonly<Record<Exclude<Place, "doc">, ReadonlySet<string>>> = {
  item: new Set(["paragraph", "bulletList", "orderedList", "taskList", "codeBlock"]),
  quote: new Set(["paragraph", "bulletList", "orderedList", "codeBlock"]),
  cell: new Set(["paragraph"]),
  panel: new Set(["paragraph", "heading", "bulletList", "orderedList", "codeBlock", "taskList", "rule"]),
  expand: new Set([
    "paragraph",
    "heading",
    "bulletList",
    "orderedList",
    "codeBlock",
    "taskList",
    "rule",
    "blockquote",
    "panel",
    "table"
  ])
}

const panelTypes: Readonly<Record<string, string>> = {
  info: "info",
  note: "note",
  tip: "tip",
  warning: "warning",
  success: "success",
  error: "error",
  important: "note",
  caution: "warning"
}

export const fromMarkdown = (markdown: string): AdfDocument => {
  const source = markdown.replace(/\r\n?/g, "\n")
  const root = Markdown.parse(source)
  const definitions = InlineRead.definitionsOf(root)
  let ids = 0
  const runsOf = (nodes: ReadonlyArray<Mdast.PhrasingContent>) => InlineRead.read(nodes, definitions, true)
  const paragraph = (runs: ReadonlyArray<Runs.Run>): ReadonlyArray<AdfNode> => {
    const content = line(Runs.tidy(runs))
    return content.length === 0 ? [] : [node("paragraph", content)]
  }
  const placed = (nodes: ReadonlyArray<AdfNode>, place: Place): ReadonlyArray<AdfNode> =>
    place === "doc"
      ? nodes
      : nodes.flatMap((each): ReadonlyArray<AdfNode> => {
          if (takes[place].has(each.type)) return [each]
          if (each.type === "heading") return [node("paragraph", each.content)]
          return placed(each.content ?? [], place).filter(({ type }) => takes[place].has(type))
        })
  const all = (nodes: ReadonlyArray<Mdast.RootContent>, place: Place): ReadonlyArray<AdfNode> => {
    const out: Array<AdfNode> = []
    // `<details>` and what ends it, which stand beside what is between them.
    const open: Array<{ title: string; from: number }> = []
    for (const each of nodes) {
      if (each.type === "html") {
        const start = /^<details>\s*(?:<summary>([^<]*)<\/summary>\s*)?$/.exec(each.value)
        if (start !== null) {
          open.push({
            title:
              Xml.tryParse(start[1] ?? "")
                ?.map(Xml.textOf)
                .join("") ?? "",
            from: out.length
          })
          continue
        }
        const begun = /^<\/details>\s*$/.test(each.value) ? open.pop() : undefined
        if (begun !== undefined) {
          const content = placed(out.splice(begun.from), "expand")
          out.push(node("expand", content.length === 0 ? [node("paragraph", [])] : content, { title: begun.title }))
          continue
        }
      }
      out.push(...one(each))
    }
    return placed(out, place)
  }
  const one = (each: Mdast.RootContent): ReadonlyArray<AdfNode> => {
    switch (each.type) {
      case "paragraph":
        return paragraph(runsOf(each.children))
      case "heading": {
        const content = line(runsOf(each.children))
        return content.length === 0 ? [] : [node("heading", content, { level: each.depth })]
      }
      case "thematicBreak":
        return [node("rule")]
      case "code": {
        if (each.lang === rawLanguage) {
          const raw = readNode(each.value)
          if (raw !== undefined) return [raw]
        }
        const attrs = each.lang === null || each.lang === undefined ? undefined : { language: each.lang }
        return [node("codeBlock", textNode(each.value, []), attrs)]
      }
      case "blockquote":
        return quote(each)
      case "list":
        return list(each)
      case "table":
        return table(each)
      case "html": {
        const text = Runs.commentOf(each.value) === undefined ? each.value : ""
        return paragraph([{ leaf: { type: "text", value: text }, marks: [] }])
      }
      default:
        return []
    }
  }
  const quote = (each: Mdast.Blockquote): ReadonlyArray<AdfNode> => {
    const [first, ...rest] = each.children
    const start = first?.position?.start.offset
    const head = first?.type === "paragraph" ? first.children[0] : undefined
    if (first?.type === "paragraph" && head?.type === "text" && start !== undefined && source.startsWith("[!", start)) {
      const found = /^\[!([A-Za-z]+)\]\s*/.exec(head.value)
      const panelType = found === null ? undefined : panelTypes[(found[1] ?? "").toLowerCase()]
      if (found !== null && panelType !== undefined) {
        const left = [{ ...head, value: head.value.slice(found[0].length) }, ...first.children.slice(1)]
        const content = placed([...paragraph(runsOf(left)), ...all(rest, "panel")], "panel")
        return [node("panel", content.length === 0 ? [node("paragraph", [])] : content, { panelType })]
      }
    }
    const content = all(each.children, "quote")
    return content.length === 0 ? [] : [node("blockquote", content)]
  }
  const list = (each: Mdast.List): ReadonlyArray<AdfNode> => {
    const tasks =
      !each.ordered &&
      each.children.every(
        (item) =>
          typeof item.checked === "boolean" && item.children.length === 1 && item.children[0]?.type === "paragraph"
      )
    if (tasks && each.children.length > 0) {
      const items = each.children.map((item) => {
        const [only] = item.children
        return node("taskItem", only?.type === "paragraph" ? line(runsOf(only.children)) : [], {
          localId: `task-${ids++}`,
          state: item.checked === true ? "DONE" : "TODO"
        })
      })
      return [node("taskList", items, { localId: `list-${ids++}` })]
    }
    const items = each.children.map((item) => {
      const mark: Mdast.Text = { type: "text", value: item.checked === true ? "[x] " : "[ ] " }
      const [first, ...rest] = item.children
      const children =
        typeof item.checked === "boolean" && first?.type === "paragraph"
          ? [{ ...first, children: [mark, ...first.children] }, ...rest]
          : item.children
      const content = all(children, "item")
      const starts = content[0]?.type === "paragraph" || content[0]?.type === "codeBlock"
      return node("listItem", starts ? content : [node("paragraph", []), ...content])
    })
    const order = each.start ?? 1
    return [
      each.ordered === true
        ? node("orderedList", items, order === 1 ? undefined : { order })
        : node("bulletList", items)
    ]
  }
  const table = (each: Mdast.Table): ReadonlyArray<AdfNode> => {
    const columns = each.align?.length ?? each.children[0]?.children.length ?? 0
    const rows = each.children.map((row, at) => {
      const cells = row.children.slice(0, columns).map((cell) => runsOf(cell.children))
      while (cells.length < columns) cells.push([])
      return { cells, header: at === 0 }
    })
    const kept = rows.filter(({ cells, header }) => !header || cells.some((cell) => cell.length > 0))
    if (kept.length === 0) return []
    return [
      node(
        "table",
        kept.map(({ cells, header }) =>
          node(
            "tableRow",
            cells.map((cell) => {
              const content = paragraph(cell)
              return node(
                header ? "tableHeader" : "tableCell",
                content.length === 0 ? [node("paragraph", [])] : content
              )
            })
          )
        )
      )
    ]
  }
  const content = all(root.children, "doc")
  return { version: 1, type: "doc", content: content.length === 0 ? [node("paragraph", [])] : content }
}

// ---- from the format

const attr = (from: AdfNode, name: string): string | undefined => {
  const value = from.attrs?.[name]
  return typeof value === "string" && value !== "" ? value : typeof value === "number" ? String(value) : undefined
}

const runsOf = (nodes: ReadonlyArray<AdfNode>): ReadonlyArray<Runs.Run> => {
  const runs: Array<Runs.Run> = []
  let links = 0
  let last: (Runs.Mark & { readonly type: "link" }) | undefined
  for (const each of nodes) {
    const code = each.marks?.some(({ type }) => type === "code") === true
    let marks: ReadonlyArray<Runs.Mark> = []
    let link: (Runs.Mark & { readonly type: "link" }) | undefined
    for (const mark of each.marks ?? []) {
      switch (mark.type) {
        case "em":
          marks = Runs.withMark(marks, { type: "emphasis" })
          break
        case "strong":
          marks = Runs.withMark(marks, { type: "strong" })
          break
        case "strike":
          marks = Runs.withMark(marks, { type: "delete" })
          break
        case "underline":
          marks = Runs.withMark(marks, { type: "element", element: Xml.element("u"), comment: false })
          break
        case "subsup": {
          const name = mark.attrs?.["type"] === "sup" ? "sup" : "sub"
          marks = Runs.withMark(marks, { type: "element", element: Xml.element(name), comment: false })
          break
        }
        case "link": {
          const url = mark.attrs?.["href"]
          if (typeof url !== "string" || url === "") break
          const title = mark.attrs?.["title"]
          const made: Runs.Mark & { readonly type: "link" } =
            last?.url === url
              ? last
              : { type: "link", id: links++, url, title: typeof title === "string" && title !== "" ? title : undefined }
          link = made
          marks = Runs.withMark(marks, made)
        }
      }
    }
    last = link
    const put = (leaf: Runs.Leaf, own: ReadonlyArray<Runs.Mark> = marks): void => {
      runs.push({ leaf, marks: own })
    }
    const linked = (url: string, text: string): void =>
      put({ type: "text", value: text }, [{ type: "link", id: links++, url, title: undefined }])
    switch (each.type) {
      case "text":
        if (!code) put({ type: "text", value: each.text ?? "" })
        else if ((each.text ?? "").trim() !== "") put({ type: "code", value: (each.text ?? "").replace(/\s/g, " ") })
        break
      case "hardBreak":
        put({ type: "break" })
        break
      case "mention":
        linked(`${account}${encodeURIComponent(Xml.clean(attr(each, "id") ?? ""))}`, attr(each, "text") ?? "@user")
        break
      case "emoji":
        put({ type: "text", value: attr(each, "text") ?? attr(each, "shortName") ?? "" })
        break
      case "inlineCard":
      case "blockCard": {
        const url = attr(each, "url")
        if (url !== undefined) linked(url, url)
        break
      }
      default:
        put({
          type: "raw",
          element: Xml.element(rawElement, [JSON.stringify(each)]),
          comment: true
        })
    }
  }
  return Runs.tidy(runs)
}

const isInline = (each: AdfNode): boolean =>
  ["text", "hardBreak", "mention", "emoji", "inlineCard", "date", "status", "mediaInline", "placeholder"].includes(
    each.type
  )

/** `doc` is what came from outside: anything can be in it. */
export const toMarkdown = (doc: unknown): string => {
  if (!isNode(doc)) {
    throw new Xml.Refused("Malformed", `this is no document, or one that is more than ${Xml.maxDepth} deep`)
  }
  return Markdown.print({ type: "root", children: blocks(doc.type === "doc" ? (doc.content ?? []) : [doc]) })
}

type Block = Mdast.BlockContent

const phrasing = (nodes: ReadonlyArray<AdfNode>, oneLine: boolean): Array<Mdast.PhrasingContent> => {
  const children = Runs.toMdast(Runs.group(runsOf(nodes)), oneLine)
  return oneLine ? children : Runs.guarded(children)
}

const kept = (each: AdfNode): Array<Block> => [
  { type: "code", lang: rawLanguage, value: JSON.stringify(each, undefined, 2) }
]

const paragraphOf = (nodes: ReadonlyArray<AdfNode>): Array<Block> => {
  const children = phrasing(nodes, false)
  return children.length === 0 ? [] : [{ type: "paragraph", children }]
}

const blocks = (nodes: ReadonlyArray<AdfNode>): Array<Block> => {
  const out: Array<Block> = []
  let pending: Array<AdfNode> = []
  for (const each of nodes) {
    if (isInline(each)) {
      pending.push(each)
      continue
    }
    out.push(...paragraphOf(pending), ...block(each))
    pending = []
  }
  out.push(...paragraphOf(pending))
  return out
}

const item = (children: Array<Block>, checked?: boolean): Mdast.ListItem => ({
  type: "listItem",
  spread: !(children.length <= 2 && children.slice(1).every(({ type }) => type === "list")),
  ...(checked === undefined ? {} : { checked }),
  children
})

const block = (each: AdfNode): Array<Block> => {
  const content = each.content ?? []
  switch (each.type) {
    case "paragraph":
      return paragraphOf(content)
    case "heading": {
      const children = phrasing(content, true)
      const level = each.attrs?.["level"]
      const depth = level === 1 || level === 2 || level === 3 || level === 4 || level === 5 ? level : 6
      return children.length === 0 ? [] : [{ type: "heading", depth, children }]
    }
    case "rule":
      return [{ type: "thematicBreak" }]
    case "codeBlock": {
      const lang = attr(each, "language")
      const known = lang !== undefined && /^[\w+#.-]+$/.test(lang) && lang !== rawLanguage
      if (lang !== undefined && !known) return kept(each)
      return [
        { type: "code", ...(lang === undefined ? {} : { lang }), value: content.map(({ text }) => text ?? "").join("") }
      ]
    }
    case "blockquote": {
      const children = blocks(content)
      return children.length === 0 ? [] : [{ type: "blockquote", children }]
    }
    case "bulletList":
    case "orderedList": {
      const order = each.attrs?.["order"]
      const ordered = each.type === "orderedList"
      const items = content.filter(({ type }) => type === "listItem").map((one) => item(blocks(one.content ?? [])))
      return items.length === 0
        ? []
        : [
            {
              type: "list",
              ordered,
              spread: false,
              ...(ordered
                ? {
                    start: typeof order === "number" && Number.isInteger(order) && order >= 0 && order < 1e9 ? order : 1
                  }
                : {}),
              children: items
            }
          ]
    }
    case "taskList": {
      const items = content.flatMap((one): ReadonlyArray<Mdast.ListItem> => {
        const children = one.type === "taskItem" ? blocks(one.content ?? []) : []
        return children.length === 0 ? [] : [item(children, one.attrs?.["state"] === "DONE")]
      })
      return content.some(({ type }) => type !== "taskItem")
        ? kept(each)
        : items.length === 0
          ? []
          : [{ type: "list", ordered: false, spread: false, children: items }]
    }
    case "panel": {
      const name = attr(each, "panelType")
      if (name === undefined || !Object.hasOwn(panelTypes, name)) return kept(each)
      return [
        {
          type: "blockquote",
          children: [
            { type: "paragraph", children: [{ type: "html", value: `[!${name.toUpperCase()}]` }] },
            ...blocks(content)
          ]
        }
      ]
    }
    case "expand":
    case "nestedExpand": {
      const title = (attr(each, "title") ?? "").replace(/\s+/gu, " ").trim()
      const summary = title === "" ? "" : `\n<summary>${Xml.write([title])}</summary>`
      return [{ type: "html", value: `<details>${summary}` }, ...blocks(content), { type: "html", value: "</details>" }]
    }
    case "table":
      return table(each)
    default:
      return kept(each)
  }
}

const table = (each: AdfNode): Array<Block> => {
  const rows = (each.content ?? []).filter(({ type }) => type === "tableRow").map(({ content }) => content ?? [])
  const columns = rows.reduce((most, row) => Math.max(most, row.length), 0)
  const simple = rows.every(
    (row, at) =>
      row.length === columns &&
      row.every(
        (cell) =>
          (cell.type === "tableHeader" ? at === 0 : cell.type === "tableCell") &&
          (cell.attrs?.["colspan"] ?? 1) === 1 &&
          (cell.attrs?.["rowspan"] ?? 1) === 1 &&
          (cell.content ?? []).every(({ type }) => type === "paragraph")
      )
  )
  const headed = rows[0]?.every(({ type }) => type === "tableHeader") === true
  const mixed = !headed && rows[0]?.some(({ type }) => type === "tableHeader") === true
  if (!simple || mixed || columns === 0) return kept(each)
  const made: Array<Mdast.TableRow> = rows.map((row) => ({
    type: "tableRow",
    children: row.map((cell) => ({
      type: "tableCell",
      children: phrasing(
        (cell.content ?? []).flatMap((one, at) => [...(at === 0 ? [] : [node("hardBreak")]), ...(one.content ?? [])]),
        true
      )
    }))
  }))
  if (!headed) {
    made.unshift({
      type: "tableRow",
      children: Array.from({ length: columns }, () => ({ type: "tableCell", children: [] }))
    })
  }
  return [{ type: "table", align: Array.from({ length: columns }, () => null), children: made }]
}
