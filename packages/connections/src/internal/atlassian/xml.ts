/**
 * Fragments of the storage format as a tree, and back. Read by `saxes`, strictly, with a limit on depth.
 */
import * as Saxes from "saxes"
import { entities } from "./entities.ts"

export interface Element {
  readonly name: string
  readonly attributes: ReadonlyArray<readonly [name: string, value: string]>
  readonly children: ReadonlyArray<Node>
}

export type Node = Element | string

/** Why a text could not be converted. It is thrown inside these helpers, and typed by `StorageFormat`. */
export class Refused extends Error {
  readonly reason: "Malformed" | "TooDeep" | "TooComplex" | "TooLarge"
  readonly line: number | undefined
  readonly column: number | undefined

  constructor(reason: Refused["reason"], description: string, line?: number, column?: number) {
    super(description)
    this.name = "Refused"
    this.reason = reason
    this.line = line
    this.column = column
  }
}

/** How deep elements may be in each other. */
export const maxDepth = 200

export const element = (
  name: string,
  children: ReadonlyArray<Node> = [],
  attributes: ReadonlyArray<readonly [string, string]> = []
): Element => ({ name, attributes, children })

export const attribute = (from: Element, name: string): string | undefined =>
  from.attributes.find(([each]) => each === name)?.[1]

export const isElement = (node: Node | undefined): node is Element => typeof node === "object"

export const elementsOf = (parent: Element): ReadonlyArray<Element> => parent.children.filter(isElement)

/** The text of a node and all in it. */
export const textOf = (node: Node): string => (typeof node === "string" ? node : node.children.map(textOf).join(""))

/** Reads a fragment. Malformed or too deep ones are thrown as `Refused`. */
export const parse = (text: string): ReadonlyArray<Node> => {
  const parser = new Saxes.SaxesParser({ fragment: true, position: true })
  Object.assign(parser.ENTITIES, entities)
  const root: Array<Node> = []
  const open: Array<Array<Node>> = [root]
  const add = (piece: string): void => {
    const children = open[open.length - 1] ?? root
    const last = children.length - 1
    const before = children[last]
    if (typeof before === "string") children[last] = before + piece
    else if (piece !== "") children.push(piece)
  }
  parser.on("error", (error) => {
    // saxes puts "line:column: " before what it says, and may quote the text in it.
    const at = /^(?:undefined:)?(\d+):(\d+): /.exec(error.message)
    throw new Refused("Malformed", "this is not well-formed XHTML", Number(at?.[1] ?? 1), Number(at?.[2] ?? 1))
  })
  parser.on("opentag", (tag) => {
    if (open.length > maxDepth) {
      throw new Refused("TooDeep", `elements are more than ${maxDepth} deep in each other`, parser.line, parser.column)
    }
    const children: Array<Node> = []
    const made: Element = {
      name: tag.name,
      attributes: Object.entries(tag.attributes).map(([name, value]) => [name, String(value)] as const),
      children
    }
    ;(open[open.length - 1] ?? root).push(made)
    open.push(children)
  })
  parser.on("closetag", () => {
    open.pop()
  })
  parser.on("text", add)
  parser.on("cdata", add)
  parser.write(text.charCodeAt(0) === 0xfeff ? text.slice(1) : text).close()
  return root
}

/** The same, or undefined where it is not well-formed. */
export const tryParse = (text: string): ReadonlyArray<Node> | undefined => {
  try {
    return parse(text)
  } catch {
    return undefined
  }
}

const textEscapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;" }
const attributeEscapes: Readonly<Record<string, string>> = {
  ...textEscapes,
  '"': "&quot;",
  "\t": "&#9;",
  "\n": "&#10;"
}

// What XML 1.0 cannot hold in any way.
// biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
const impossible = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|\p{Surrogate}/gu

export const clean = (text: string): string => text.replace(impossible, "\ufffd")

const escapeText = (text: string): string => clean(text).replace(/[&<>\r]/g, (each) => textEscapes[each] ?? each)

const escapeAttribute = (text: string): string =>
  clean(text).replace(/[&<>"\r\t\n]/g, (each) => attributeEscapes[each] ?? each)

/** Elements whose text Confluence writes as CDATA. */
const plain: ReadonlySet<string> = new Set(["ac:plain-text-body", "ac:plain-text-link-body"])

// A carriage return in CDATA would be read as a line end: such a text is escaped instead.
const cdata = (text: string): string =>
  text === ""
    ? ""
    : text.includes("\r")
      ? escapeText(text)
      : `<![CDATA[${clean(text).replaceAll("]]>", "]]]]><![CDATA[>")}]]>`

/** The one way in which a tree is written. */
export const write = (nodes: ReadonlyArray<Node>): string => {
  const out: Array<string> = []
  const put = (node: Node): void => {
    if (typeof node === "string") {
      out.push(escapeText(node))
      return
    }
    out.push(openTag(node, node.children.length === 0))
    if (node.children.length === 0) return
    if (plain.has(node.name) && node.children.every((each) => typeof each === "string")) out.push(cdata(textOf(node)))
    else node.children.forEach(put)
    out.push(`</${node.name}>`)
  }
  nodes.forEach(put)
  return out.join("")
}

/** The start tag of an element, or all of an empty one. */
export const openTag = (node: Element, empty: boolean): string =>
  `<${node.name}${node.attributes.map(([name, value]) => ` ${name}="${escapeAttribute(value)}"`).join("")}${empty ? " /" : ""}>`
