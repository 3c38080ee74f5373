"""What instance types cost an hour: AWS's price list or, without access to it, dl.cfg's."""

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

PRICE_LIST_REGION = "us-east-1"  # one of the few regions with this service; it knows all prices
# Prices are informational: do not wait long for them.
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
    """On-demand dollars an hour of instance types, EC2 and EMR together; each is asked for once.

    A spot node costs less. Without an answer a price is None: that is no error.
    """

    def __init__(self, session: boto3.Session, configured: Mapping[str, float]) -> None:
        self.pricing = session.client("pricing", region_name=PRICE_LIST_REGION, config=CONFIG)
        self.region, self.configured = session.region_name, configured
        self.known: dict[str, float | None] = {}
        self.may_ask = True

    def of(self, instance_type: str) -> float | None:
        """The price of a type: AWS's, else the one in dl.cfg, else None."""
        if instance_type not in self.known:
            price = self._ask(instance_type) if self.may_ask else None
            if price is None:
                price = self.configured.get(instance_type)
            self.known[instance_type] = price
        return self.known[instance_type]

    def _ask(self, instance_type: str) -> float | None:
        try:
            return fetch_price(self.pricing, instance_type, self.region)
        except (BotoCoreError, Boto3Error, ClientError):
            self.may_ask = False
            return None


def fetch_price(pricing: PricingClient, instance_type: str, region: str) -> float | None:
    """EC2's and EMR's price of a type together, or None if AWS's list does not hold both."""
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
        parts.append(extract_price([json.loads(product) for product in answer["PriceList"]]))
    return None if None in parts else sum(part for part in parts if part is not None)


def extract_price(products: list[dict[str, Any]]) -> float | None:
    """The hourly price of these products; None if they have none or several."""
    found = {
        float(dimension["pricePerUnit"]["USD"])
        for product in products
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension["unit"] == "Hrs"
    }
    found.discard(0.0)  # reserved capacity is listed as well, for $0
    return found.pop() if len(found) == 1 else None


def dollars(amount: float | None) -> str:
    """An amount of money for people: $0.72."""
    return "unknown" if amount is None else f"${amount:.2f}"
