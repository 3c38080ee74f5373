"""What a cluster costs: AWS's price list, or that of dl.cfg where AWS's may not be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    import boto3
    from mypy_boto3_pricing import PricingClient

PRICE_LIST_REGION = "us-east-1"  # one of the few that serve the list; it holds the others' prices
# A price is worth a short wait only.
CONFIG = Config(retries={"total_max_attempts": 2}, connect_timeout=5, read_timeout=10)
EC2_FILTERS = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
    "marketoption": "OnDemand",
}
EMR_FILTERS = {"softwareType": "EMR"}


class PriceList:
    """Dollars an hour for instance types, EC2 and EMR together; each is asked for once.

    On-demand prices: a spot node costs less. No answer is no error: a price is then unknown.
    """

    def __init__(self, session: boto3.Session, own: Mapping[str, float]) -> None:
        self.pricing = session.client("pricing", region_name=PRICE_LIST_REGION, config=CONFIG)
        self.region, self.own = session.region_name, own
        self.known: dict[str, float | None] = {}
        self.may_ask = True

    def of(self, instance_type: str) -> float | None:
        """The price of a type: AWS's, else that of dl.cfg, else None."""
        if instance_type not in self.known:
            price = self._ask(instance_type) if self.may_ask else None
            self.known[instance_type] = self.own.get(instance_type) if price is None else price
        return self.known[instance_type]

    def _ask(self, instance_type: str) -> float | None:
        try:
            return fetch_price(self.pricing, instance_type, self.region)
        except (BotoCoreError, Boto3Error, ClientError):
            self.may_ask = False
            return None


def fetch_price(pricing: PricingClient, instance_type: str, region: str) -> float | None:
    """EC2's and EMR's price of a type together, or None where AWS's list does not name both."""
    place = {"instanceType": instance_type, "regionCode": region}
    parts = []
    for service, filters in (("AmazonEC2", EC2_FILTERS), ("ElasticMapReduce", EMR_FILTERS)):
        wanted = {**place, **filters}
        answer = pricing.get_products(
            ServiceCode=service,
            Filters=[
                {"Type": "TERM_MATCH", "Field": field, "Value": value}
                for field, value in wanted.items()
            ],
        )
        parts.append(the_price([json.loads(product) for product in answer["PriceList"]]))
    return None if None in parts else sum(part for part in parts if part is not None)


def the_price(products: list[dict[str, Any]]) -> float | None:
    """The one hourly price that these products name; None where they name none or several."""
    found = {
        float(dimension["pricePerUnit"]["USD"])
        for product in products
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension["unit"] == "Hrs"
    }
    found.discard(0.0)  # reserved capacity is listed as well, at nothing
    return found.pop() if len(found) == 1 else None


def dollars(amount: float | None) -> str:
    """An amount of money for people."""
    return "unknown" if amount is None else f"${amount:.2f}"
