/**
 * Trees of the storage format as Markdown's.
 */
import type * as Mdast from "mdast"
import * as Resources from "./resources.ts"
import * as Runs from "./runs.ts"
import * as Xml from "./xml.ts"

export interface Options {
  /** What becomes of what Markdown has no form for: kept as it is, or its text alone. */
  readonly unsupported: "keep" | "text"
}

/** Elements of HTML within a line that stay as tags. */
export const inlineElements: ReadonlySet<string> = new Set(
  "u sub sup small big span ins tt cite q kbd var samp abbr acronym font mark bdi bdo dfn label code".split(" ")
)

const blockElements: ReadonlySet<string> = new Set(
  (
    "p h1 h2 h3 h4 h5 h6 ul ol blockquote pre hr table div details ac:task-list ac:layout ac:layout-section " +
    "ac:layout-cell ac:adf-extension"
  ).split(" ")
)

/** Elements that only hold others, whose tags are kept in comments round what they hold. */
const wrappers: ReadonlySet<string> = new Set(["div", "ac:layout", "ac:layout-section", "ac:layout-cell"])

const marksOf: Readonly<Record<string, "emphasis" | "strong" | "delete">> = {
  em: "emphasis",
  i: "emphasis",
  strong: "strong",
  b: "strong",
  del: "delete",
  s: "delete",
  strike: "delete"
}

export const panels: ReadonlySet<string> = new Set(["info", "note", "tip", "warning"])

/** The language of fenced blocks that hold storage format as it is. */
export const rawLanguage = "confluence-storage"

const isBlank = (node: Xml.Node): boolean => typeof node === "string" && /^[ \t\r\n]*$/.test(node)

const isMacro = (node: Xml.Element): boolean => node.name === "ac:structured-macro" || node.name === "ac:macro"

interface Macro {
  readonly name: string
  readonly parameters: ReadonlyMap<string, string>
  readonly rich: Xml.Element | undefined
  readonly plain: Xml.Element | undefined
  /** Whether it holds nothing but one body and parameters that are text. */
  readonly simple: boolean
}

const macroOf = (node: Xml.Element): Macro => {
  const parameters = new Map<string, string>()
  let rich: Xml.Element | undefined
  let plain: Xml.Element | undefined
  let simple = true
  for (const child of node.children) {
    if (typeof child === "string") {
      if (!isBlank(child)) simple = false
      continue
    }
    const name = Xml.attribute(child, "ac:name")
    if (child.name === "ac:parameter" && name !== undefined && !parameters.has(name)) {
      if (child.children.some(Xml.isElement) || child.attributes.length > 1) simple = false
      parameters.set(name, Xml.textOf(child))
    } else if (child.name === "ac:rich-text-body" && rich === undefined) rich = child
    else if (child.name === "ac:plain-text-body" && plain === undefined) plain = child
    else simple = false
  }
  if (rich !== undefined && plain !== undefined) simple = false
  return { name: Xml.attribute(node, "ac:name") ?? "", parameters, rich, plain, simple }
}

/** The visible text of what has no form: bodies and titles, not other parameters. */
const visible = (node: Xml.Node): string => {
  if (typeof node === "string") return node
  if (node.name === "ac:parameter") return Xml.attribute(node, "ac:name") === "title" ? `${Xml.textOf(node)} ` : ""
  return node.children.map(visible).join("")
}

export const inline = (nodes: ReadonlyArray<Xml.Node>, options: Options): ReadonlyArray<Runs.Run> => {
  const runs: Array<Runs.Run> = []
  let links = 0
  const put = (leaf: Runs.Leaf, marks: ReadonlyArray<Runs.Mark>): void => {
    runs.push({ leaf, marks })
  }
  const raw = (element: Xml.Element, marks: ReadonlyArray<Runs.Mark>, comment = true): void => {
    if (options.unsupported === "text") put({ type: "text", value: visible(element) }, marks)
    else put({ type: "raw", element, comment }, marks)
  }
  const all = (children: ReadonlyArray<Xml.Node>, marks: ReadonlyArray<Runs.Mark>): void => {
    for (const child of children) one(child, marks)
  }
  const linked = (url: string, title: string | undefined, marks: ReadonlyArray<Runs.Mark>) =>
    Runs.withMark(marks, { type: "link", id: links++, url, title })
  const one = (node: Xml.Node, marks: ReadonlyArray<Runs.Mark>): void => {
    if (typeof node === "string") return void put({ type: "text", value: node }, marks)
    const mark = marksOf[node.name]
    if (mark !== undefined) return void all(node.children, Runs.withMark(marks, { type: mark }))
    if (node.name === "br") return void put({ type: "break" }, marks)
    if (node.name === "code" && !node.children.some(Xml.isElement)) {
      const value = Xml.textOf(node).replace(/\s/g, " ")
      if (value.trim() !== "") put({ type: "code", value }, marks)
      return
    }
    if (inlineElements.has(node.name)) {
      const element = Xml.element(node.name, [], node.attributes)
      return void all(
        node.children,
        options.unsupported === "text" ? marks : Runs.withMark(marks, { type: "element", element, comment: false })
      )
    }
    switch (node.name) {
      case "a": {
        const url = Xml.attribute(node, "href")
        if (url === undefined || marks.some(({ type }) => type === "link")) break
        const to = linked(url, Xml.attribute(node, "title"), marks)
        const before = runs.length
        all(node.children, to)
        // White space alone is no text of a link.
        if (Runs.tidy(runs.slice(before)).length === 0) put({ type: "text", value: url }, to)
        return
      }
      case "ac:link":
        if (link(node, marks)) return
        break
      case "ac:emoticon": {
        const found = Resources.ofEmoticon(node)
        if (found === undefined || marks.some(({ type }) => type === "link")) break
        const to = options.unsupported === "text" ? marks : linked(found.url, undefined, marks)
        return void put({ type: "text", value: found.text }, to)
      }
      case "ac:image": {
        const made = image(node)
        if (made === undefined) break
        return void put(made, marks)
      }
      case "time":
        if (node.children.length > 0) break
        if (options.unsupported === "text") {
          return void put({ type: "text", value: Xml.attribute(node, "datetime") ?? "" }, marks)
        }
        return void raw(node, marks, false)
      case "ac:inline-comment-marker": {
        const element = Xml.element(node.name, [], node.attributes)
        return void all(
          node.children,
          options.unsupported === "text" ? marks : Runs.withMark(marks, { type: "element", element, comment: true })
        )
      }
    }
    raw(node, marks)
  }
  const link = (node: Xml.Element, marks: ReadonlyArray<Runs.Mark>): boolean => {
    if (node.attributes.some(([name]) => name !== "ac:anchor") || marks.some(({ type }) => type === "link"))
      return false
    const parts = Xml.elementsOf(node)
    if (!node.children.every((child) => Xml.isElement(child) || isBlank(child))) return false
    const body = parts.find(({ name }) => name === "ac:plain-text-link-body" || name === "ac:link-body")
    const targets = parts.filter((part) => part !== body)
    if (targets.length > 1) return false
    const found = Resources.ofTarget(targets[0], Xml.attribute(node, "ac:anchor"))
    if (found === undefined) return false
    const to = linked(found.url, undefined, marks)
    const before = runs.length
    if (body !== undefined) all(body.children, to)
    if (Runs.tidy(runs.slice(before)).length === 0) put({ type: "text", value: found.text }, to)
    return true
  }
  all(nodes, [])
  return Runs.tidy(runs)
}

const image = (node: Xml.Element): Runs.Leaf | undefined => {
  const parts = Xml.elementsOf(node)
  const [target] = parts
  if (target === undefined || parts.length !== 1 || target.children.length > 0 || target.attributes.length !== 1) {
    return undefined
  }
  const file = target.name === "ri:attachment" ? Xml.attribute(target, "ri:filename") : undefined
  const address = target.name === "ri:url" ? Xml.attribute(target, "ri:value") : undefined
  // An address that would be taken for an attachment stays as it is.
  if (file === undefined && (address === undefined || Resources.attachmentOf(address) !== undefined)) return undefined
  const title = Xml.attribute(node, "ac:title")
  const alt = Xml.attribute(node, "ac:alt")
  const odd = (text: string | undefined): boolean =>
    text !== undefined && (text === "" || /[\t\r\n\f]|^\s|\s$|\s\s/u.test(text))
  if (odd(title) || odd(alt) || address === "") return undefined
  return {
    type: "image",
    url: file === undefined ? (address ?? "") : Resources.ofAttachment(file),
    alt: alt ?? "",
    title,
    more: node.attributes.filter(([name]) => name !== "ac:title" && name !== "ac:alt")
  }
}

const phrasing = (runs: ReadonlyArray<Runs.Run>, oneLine: boolean): Array<Mdast.PhrasingContent> => {
  const children = Runs.toMdast(Runs.group(runs), oneLine)
  return oneLine ? children : Runs.guarded(children)
}

/** Whether an element may be part of a line: no block, and no macro with a body. */
const isInLine = (node: Xml.Element): boolean =>
  !blockElements.has(node.name) &&
  (!isMacro(node) || node.children.every((child) => !Xml.isElement(child) || child.name === "ac:parameter"))

const isInline = (node: Xml.Node): boolean =>
  typeof node === "string" ? !isBlank(node) : !blockElements.has(node.name) && !isMacro(node)

type Block = Mdast.BlockContent

export const blocks = (nodes: ReadonlyArray<Xml.Node>, options: Options): Array<Block> => {
  const out: Array<Block> = []
  let pending: Array<Xml.Node> = []
  const flush = (): void => {
    const runs = inline(pending, options)
    pending = []
    if (runs.length > 0) out.push({ type: "paragraph", children: phrasing(runs, false) })
  }
  nodes.forEach((node, at) => {
    const inLine =
      typeof node === "string" ||
      (isInLine(node) && (!isMacro(node) || pending.some((each) => !isBlank(each)) || nextIsInline(nodes, at)))
    if (inLine) {
      pending.push(node)
      return
    }
    flush()
    out.push(...block(node, options))
  })
  flush()
  return out
}

const nextIsInline = (nodes: ReadonlyArray<Xml.Node>, at: number): boolean => {
  for (let next = at + 1; next < nodes.length && next < at + 3; next++) {
    const node = nodes[next]
    if (node !== undefined && !isBlank(node)) return isInline(node)
  }
  return false
}

const kept = (node: Xml.Element, options: Options): Array<Block> => {
  if (options.unsupported === "keep") return [{ type: "code", lang: rawLanguage, value: Xml.write([node]) }]
  const body = isMacro(node) ? macroOf(node) : undefined
  if (body?.rich !== undefined) return blocks(body.rich.children, options)
  const value = visible(node).replace(/\s+/g, " ").trim()
  return value === "" ? [] : [{ type: "paragraph", children: [{ type: "text", value }] }]
}

/** What an element holds, between its tags in comments. */
const wrapped = (open: string, close: string, children: Array<Block>, options: Options): Array<Block> =>
  options.unsupported === "text"
    ? children
    : [{ type: "html", value: Runs.comment(open) }, ...children, { type: "html", value: Runs.comment(close) }]

const block = (node: Xml.Element, options: Options): Array<Block> => {
  if (isMacro(node)) return macro(node, options)
  if (wrappers.has(node.name)) {
    return wrapped(Xml.openTag(node, false), `</${node.name}>`, blocks(node.children, options), options)
  }
  switch (node.name) {
    case "p": {
      if (node.children.some((child) => Xml.isElement(child) && !isInLine(child))) return blocks(node.children, options)
      const runs = inline(node.children, options)
      return runs.length === 0 ? [] : [{ type: "paragraph", children: phrasing(runs, false) }]
    }
    case "h1":
    case "h2":
    case "h3":
    case "h4":
    case "h5":
    case "h6": {
      const runs = inline(node.children, options)
      const depth = Number(node.name.slice(1)) as 1 | 2 | 3 | 4 | 5 | 6
      return runs.length === 0 ? [] : [{ type: "heading", depth, children: phrasing(runs, true) }]
    }
    case "ul":
    case "ol":
      return list(node, options)
    case "ac:task-list":
      return tasks(node, options)
    case "blockquote": {
      const children = blocks(node.children, options)
      return children.length === 0 ? [] : [{ type: "blockquote", children }]
    }
    case "pre":
      return [{ type: "code", value: Xml.textOf(node) }]
    case "hr":
      return [{ type: "thematicBreak" }]
    case "details": {
      const summary = Xml.elementsOf(node).find(({ name }) => name === "summary")
      const rest = node.children.filter((child) => child !== summary)
      return details(summary === undefined ? undefined : Xml.textOf(summary), blocks(rest, options), options)
    }
    case "table":
      return table(node, options)
    default:
      return kept(node, options)
  }
}

const titleOf = (text: string): string => text.replace(/\s+/gu, " ").trim()

const details = (title: string | undefined, children: Array<Block>, options: Options): Array<Block> => {
  const shown = titleOf(title ?? "")
  if (options.unsupported === "text") {
    return shown === ""
      ? children
      : [{ type: "paragraph", children: [{ type: "strong", children: [{ type: "text", value: shown }] }] }, ...children]
  }
  const summary = shown === "" ? "" : `\n<summary>${Xml.write([shown])}</summary>`
  return [{ type: "html", value: `<details>${summary}` }, ...children, { type: "html", value: "</details>" }]
}

const isToken = /^[\w+#.-]{1,60}$/

const macro = (node: Xml.Element, options: Options): Array<Block> => {
  const { name, parameters, plain, rich, simple } = macroOf(node)
  if (!simple) return kept(node, options)
  if ((name === "code" || name === "noformat") && rich === undefined) {
    const others = Array.from(parameters).filter(([each]) => name !== "code" || each !== "language")
    const language = name === "code" ? parameters.get("language") : "noformat"
    const told = language === undefined ? others.length === 0 : isToken.test(language)
    const clash = name === "code" && (language === rawLanguage || language === "noformat")
    // What is text may hold what XML cannot: it was read from XML, so it does not.
    if (told && !clash && others.every(([each, value]) => isToken.test(each) && !/[\r\n]/.test(value))) {
      const meta = others.map(([each, value]) => `${each}=${JSON.stringify(value)}`).join(" ")
      return [
        {
          type: "code",
          ...(language === undefined ? {} : { lang: language }),
          ...(meta === "" ? {} : { meta }),
          value: plain === undefined ? "" : Xml.textOf(plain)
        }
      ]
    }
    return kept(node, options)
  }
  if (rich === undefined) return kept(node, options)
  const titled = Array.from(parameters.keys()).every((each) => each === "title")
  const title = parameters.get("title")
  if (panels.has(name) && titled && (title === undefined || (title === titleOf(title) && title !== ""))) {
    const header: Array<Mdast.PhrasingContent> = [{ type: "html", value: `[!${name.toUpperCase()}]` }]
    if (title !== undefined) header.push({ type: "text", value: ` ${title}` })
    return [
      {
        type: "blockquote",
        children: [{ type: "paragraph", children: header }, ...blocks(rich.children, options)]
      }
    ]
  }
  if (name === "expand" && titled && (title === undefined || (title === titleOf(title) && title !== ""))) {
    return details(title, blocks(rich.children, options), options)
  }
  const open =
    Xml.openTag(node, false) +
    node.children.map((child) => (Xml.isElement(child) && child !== rich ? Runs.writeEscaped(child) : "")).join("") +
    Xml.openTag(rich, false)
  // Its body comes last when it is written: parameters stand before it in all that Confluence writes.
  return wrapped(open, `</ac:rich-text-body></${node.name}>`, blocks(rich.children, options), options)
}

const list = (node: Xml.Element, options: Options): Array<Block> => {
  const items: Array<Mdast.ListItem> = []
  for (const child of Xml.elementsOf(node)) {
    if (child.name === "li") items.push(item(blocks(child.children, options)))
    else {
      // A list in a list, without an item, as old editors wrote it, belongs to the item before it.
      const last = items.pop()
      items.push(item([...(last?.children.filter(isBlock) ?? []), ...blocks([child], options)]))
    }
  }
  if (items.length === 0) return []
  const ordered = node.name === "ol"
  const start = ordered ? Number(Xml.attribute(node, "start") ?? "1") : 1
  return [
    {
      type: "list",
      ordered,
      spread: false,
      ...(ordered ? { start: Number.isInteger(start) && start >= 0 && start < 1e9 ? start : 1 } : {}),
      children: items
    }
  ]
}

const isBlock = (node: Mdast.BlockContent | Mdast.DefinitionContent): node is Block =>
  node.type !== "definition" && node.type !== "footnoteDefinition"

const item = (children: Array<Block>, checked?: boolean): Mdast.ListItem => {
  const tight = children.slice(1).every(({ type }) => type === "list") && children.length <= 2
  return {
    type: "listItem",
    spread: !tight,
    ...(checked === undefined ? {} : { checked }),
    children
  }
}

const tasks = (node: Xml.Element, options: Options): Array<Block> => {
  const items: Array<Mdast.ListItem> = []
  for (const child of Xml.elementsOf(node)) {
    if (child.name === "ac:task") {
      const parts = Xml.elementsOf(child)
      const body = parts.find(({ name }) => name === "ac:task-body")
      const status = parts.find(({ name }) => name === "ac:task-status")
      const inside = body?.children ?? []
      const inOne = inside.every((each) => !Xml.isElement(each) || isInLine(each))
      const children = blocks(inOne ? [Xml.element("p", inside)] : inside, options)
      if (children.length === 0) continue
      if (children[0]?.type !== "paragraph") return kept(node, options)
      items.push(item(children, status !== undefined && Xml.textOf(status).trim() === "complete"))
    } else {
      const last = items.pop()
      if (last === undefined) return kept(node, options)
      items.push(item([...last.children.filter(isBlock), ...blocks([child], options)], last.checked === true))
    }
  }
  return items.length === 0 ? [] : [{ type: "list", ordered: false, spread: false, children: items }]
}

/** The runs of a cell that holds one line, or lines. */
const cell = (node: Xml.Element, options: Options): ReadonlyArray<Runs.Run> | undefined => {
  const name = (child: Xml.Node): string => (Xml.isElement(child) ? child.name : "")
  const simple = (child: Xml.Node): boolean => !Xml.isElement(child) || isInLine(child)
  const lines: Array<ReadonlyArray<Runs.Run>> = []
  let pending: Array<Xml.Node> = []
  const flush = (): void => {
    lines.push(inline(pending, options))
    pending = []
  }
  for (const child of node.children) {
    if (name(child) === "p" && Xml.isElement(child) && child.children.every(simple)) {
      flush()
      lines.push(inline(child.children, options))
    } else if (simple(child)) pending.push(child)
    else if (options.unsupported === "text" && Xml.isElement(child)) {
      flush()
      for (const text of texts(child)) lines.push(inline([text], options))
    } else return undefined
  }
  flush()
  return lines
    .filter((line) => line.length > 0)
    .flatMap((line, at) => (at === 0 ? line : [{ leaf: { type: "break" } as const, marks: [] }, ...line]))
}

/** The texts of blocks, one for each. */
const texts = (node: Xml.Element): ReadonlyArray<string> => {
  const inner = Xml.elementsOf(node)
  return inner.some((each) => blockElements.has(each.name) || /^(?:li|tr|td|th|tbody)$/.test(each.name))
    ? inner.flatMap(texts)
    : [visible(node)]
}

const table = (node: Xml.Element, options: Options): Array<Block> => {
  const rows: Array<{ header: boolean; cells: Array<ReadonlyArray<Runs.Run>> }> = []
  const sections = Xml.elementsOf(node).flatMap((child) =>
    child.name === "tr"
      ? [child]
      : child.name === "tbody" || child.name === "thead" || child.name === "tfoot"
        ? Xml.elementsOf(child)
        : child.name === "colgroup"
          ? []
          : [child]
  )
  const lenient = options.unsupported === "text"
  for (const row of sections) {
    if (row.name !== "tr") {
      if (lenient) continue
      return kept(node, options)
    }
    const cells: Array<ReadonlyArray<Runs.Run>> = []
    const parts = Xml.elementsOf(row)
    for (const part of parts) {
      const spans = part.attributes.some(([name, value]) => (name === "colspan" || name === "rowspan") && value !== "1")
      const runs = (part.name === "td" || part.name === "th") && (!spans || lenient) ? cell(part, options) : undefined
      if (runs === undefined) return kept(node, options)
      cells.push(runs)
    }
    const headers = parts.filter(({ name }) => name === "th").length
    const header = headers > 0 && headers === parts.length && rows.length === 0
    if (headers > 0 && !header && !lenient) return kept(node, options)
    rows.push({ header, cells })
  }
  const columns = rows.reduce((most, { cells }) => Math.max(most, cells.length), 0)
  if (columns === 0) return []
  if (rows.some(({ cells }) => cells.length !== columns)) {
    if (!lenient) return kept(node, options)
    for (const { cells } of rows) while (cells.length < columns) cells.push([])
  }
  const [first] = rows
  const headed = first?.header === true && first.cells.some((each) => each.length > 0)
  if (!headed && first?.header === true) rows.shift()
  if (rows.length === 0) return []
  if (!headed) rows.unshift({ header: true, cells: Array.from({ length: columns }, () => []) })
  return [
    {
      type: "table",
      align: Array.from({ length: columns }, () => null),
      children: rows.map(({ cells }) => ({
        type: "tableRow",
        children: cells.map((runs) => ({ type: "tableCell", children: phrasing(runs, true) }))
      }))
    }
  ]
}
